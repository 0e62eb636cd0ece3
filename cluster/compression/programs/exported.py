"""Graph of torch.export without compilation: PyTorch runs it operator by operator.

It is a fallback for models that do not compile, and a reference for the compiled kinds.
"""

from __future__ import annotations

import torch

from cluster.artifact.entries import ProgramEntry
from cluster.compression.export import exported as graph_of
from cluster.compression.indexing.checked import checks_of
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.work import Job, Work
from cluster.config.recipe import Recipe
from cluster.program import node
from cluster.program.exported import QUANTIZED
from cluster.program.pytorch import device_of


def refusal(scheme: str | None, target: str, recipe: Recipe) -> str | None:
    """See :class:`cluster.compression.programs.builder.ProgramBuilder`."""
    if device_of(target) != "cpu":
        return "kind exported runs on CPUs; use aoti"
    return None


def build(work: Work, target: str, files: ProgramFiles, job: Job) -> ProgramEntry:
    """See :class:`cluster.compression.programs.builder.ProgramBuilder`."""
    batch, probes = job.recipe.model.max_batch_size, job.probes_for(work)
    graph = graph_of(work.module, work.inputs, strict=False, batch=batch, probes=probes)
    torch.export.save(graph, files.file("exported.pt2"))
    return ProgramEntry(
        kind="exported",
        target=target,
        file=files.name("exported.pt2"),
        cpu_features=(),
        torch_version=node.torch_version(),
        native_runner=None,
        python_abi=None,
        options={QUANTIZED: "torchao"} if work.precision is not None else {},
        quantized_operators=work.quantized_operators,
        index_checks=checks_of(work.module),
    )
