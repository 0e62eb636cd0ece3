"""AOTInductor: native code, with a dynamic batch and with a static batch for each bucket.

Work → export, dynamic batch → compile → programs/TARGET.pt2
     → export, one batch size → compile → programs/TARGET.batch-N.pt2
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from cluster.artifact.entries import ProgramEntry, StaticFile
from cluster.compression.export import exported
from cluster.compression.indexing.checked import checks_of
from cluster.compression.probes import Probes
from cluster.compression.programs import native_runner
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.work import Job, Work
from cluster.config.recipe import Recipe
from cluster.errors import CompressionError
from cluster.models import faults
from cluster.program import node
from cluster.program.pytorch import device_of


def refusal(scheme: str | None, target: str, recipe: Recipe) -> str | None:
    """See :class:`cluster.compression.programs.builder.ProgramBuilder`."""
    if device_of(target) == "cuda" and not torch.cuda.is_available():
        return "this PyTorch has no CUDA; install a build with CUDA"
    return None


def build(work: Work, target: str, files: ProgramFiles, job: Job) -> ProgramEntry:
    """See :class:`cluster.compression.programs.builder.ProgramBuilder`.

    The dynamic program runs a batch size whose static shapes do not compile.
    """
    largest = job.recipe.model.max_batch_size
    _compile(work, target, files.file("pt2"), largest, job.probes_for(work))
    static = []
    for batch in files.static_batches:
        suffix = f"batch-{batch}.pt2"
        try:
            _compile(work, target, files.file(suffix), batch)
        except CompressionError as error:
            job.out(f"compile  no static shapes for batch {batch}: {error}")
            continue
        static.append(StaticFile(batch=batch, file=files.name(suffix)))
    native = None
    if device_of(target) == "cpu":  # the runner links to PyTorch's CPU libraries alone
        # All programs of the folder share one runner.
        native = f"{files.folder}/{target}.{node.python_abi()}.so"
        if not (runner := files.artifact / native).is_file():
            shutil.copyfile(native_runner.build(), runner)
    return ProgramEntry(
        kind="aoti",
        target=target,
        file=files.name("pt2"),
        cpu_features=tuple(sorted(node.cpu_features())),
        torch_version=node.torch_version(),
        native_runner=native,
        python_abi=node.python_abi() if native else None,
        static_files=tuple(static),
        quantized_operators=work.quantized_operators,
        index_checks=checks_of(work.module),
    )


def _compile(
    work: Work, target: str, file: Path, batch: int | None, probes: Probes | None = None
) -> None:
    # Inductor takes seconds to import, and only a build needs it.
    from torch._inductor import aoti_compile_and_package
    from torch.export.passes import move_to_device_pass

    graph = exported(work.module, work.inputs, strict=False, batch=batch, probes=probes)
    advice = "build another kind of program, or change the operators that it names"
    with faults.named(f"the model cannot be compiled for {target}", advice), torch.no_grad():
        aoti_compile_and_package(
            move_to_device_pass(graph, "cuda") if device_of(target) == "cuda" else graph,
            package_path=str(file),
            # freezing folds constants and packs weights; dynamic threads let the replica
            # choose its number of threads instead of the machine that compiled.
            inductor_configs={"freezing": True, "cpp.dynamic_threads": True},
        )
