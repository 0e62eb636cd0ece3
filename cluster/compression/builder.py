"""Compiling the finished model: one program per target, by a table of kinds.

start  → what can be compiled beside the training, in the background
build  → Work → export with a dynamic batch → BUILDERS[kind] → programs/TARGET...
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.artifact.manifest import ProgramEntry
from cluster.compression import native_runner
from cluster.compression.work import Work, exported
from cluster.config.recipe import ProgramBuild
from cluster.errors import CompressionError
from cluster.program import node
from cluster.progress import Print

Wait = Callable[[], Path]
"""Waits for what :func:`start` began and gives its path."""


@dataclass(frozen=True)
class ProgramBuilder:
    """How one kind of program is built."""

    start: Callable[[], Wait]
    """Begins what does not depend on the model."""

    build: Callable[[Work, ProgramBuild, Path, Wait], ProgramEntry]
    """Compiles the model into the workspace's ``programs`` folder."""


def start(programs: tuple[ProgramBuild, ...]) -> dict[str, Wait]:
    """Begin, in the background, what the programs need besides the model; by kind."""
    return {kind: BUILDERS[kind].start() for kind in {program.kind for program in programs}}


def build(
    work: Work,
    programs: tuple[ProgramBuild, ...],
    workspace: Path,
    started: dict[str, Wait],
    out: Print,
) -> tuple[ProgramEntry, ...]:
    """Compile every program into ``workspace/programs``.

    ``started``: what :func:`start` returned. CompressionError if a target is not this machine's:
    programs are built where they run, for every instruction that CPU has.
    """
    (workspace / "programs").mkdir()
    entries = []
    for program in programs:
        if program.target not in node.targets():
            raise CompressionError(
                f"target {program.target} cannot be built on this machine, which has "
                f"{', '.join(node.targets()) or 'no target'}; run the job on a node of that kind"
            )
        out(f"compile  {program.kind} for {program.target}")
        builder = BUILDERS[program.kind]
        entries.append(builder.build(work, program, workspace, started[program.kind]))
    return tuple(entries)


def _aoti(work: Work, program: ProgramBuild, workspace: Path, runner_built: Wait) -> ProgramEntry:
    from torch._inductor import aoti_compile_and_package

    file = workspace / "programs" / f"{program.target}.pt2"
    try:
        with torch.no_grad():
            aoti_compile_and_package(
                exported(work.module, work.inputs, strict=False),
                package_path=str(file),
                # freezing folds constants and packs weights; dynamic threads let the replica
                # choose its number of threads instead of the machine that compiled.
                inductor_configs={"freezing": True, "cpp.dynamic_threads": True},
            )
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        raise CompressionError(
            f"the model cannot be compiled for {program.target}: {error}"
        ) from error
    runner = workspace / "programs" / f"{program.target}.{node.python_abi()}.so"
    shutil.copyfile(runner_built(), runner)
    return ProgramEntry(
        kind="aoti",
        target=program.target,
        file=f"programs/{file.name}",
        cpu_features=tuple(sorted(node.cpu_features())),
        torch_version=node.torch_version(),
        native_runner=f"programs/{runner.name}",
        python_abi=node.python_abi(),
    )


BUILDERS: dict[str, ProgramBuilder] = {"aoti": ProgramBuilder(native_runner.start_build, _aoti)}
