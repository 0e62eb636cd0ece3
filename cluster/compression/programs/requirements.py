"""What a machine must have before a program can be built on it.

Cheap to import and asked first, so that a missing tool is named before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cluster.compression.programs import native_runner
from cluster.config.recipe import ProgramBuild
from cluster.errors import CompressionError
from cluster.program import node
from cluster.program.openvino import INSTALL

OPENVINO = ("openvino", "nncf")
"""Packages: the compiler, and what quantizes for it."""


def openvino_packages() -> None:
    """CompressionError, naming it, if a package that OpenVINO programs need is missing."""
    missing = [name for name in OPENVINO if node.version_of(name) is None]
    if missing:
        raise CompressionError(
            f"programs of kind openvino need {' and '.join(missing)}, not installed here: "
            f"{INSTALL}, or take the kind out of programs.kinds"
        )


REQUIRED: dict[str, Callable[[], object]] = {
    "aoti": native_runner.compiler,
    "openvino": openvino_packages,
}
"""Kind of program → raises CompressionError naming what is missing to build it."""


def kinds_of(program: ProgramBuild) -> tuple[str, ...]:
    """The kinds to build: those the recipe names, else aoti, and openvino where it is installed
    and the target is an x86 CPU."""
    if program.kinds is not None:
        return program.kinds
    installed = all(node.version_of(name) is not None for name in OPENVINO)
    return ("aoti", "openvino") if installed and program.target == "cpu-x86" else ("aoti",)


def check(programs: Iterable[ProgramBuild]) -> None:
    """Raise CompressionError unless every one of ``programs`` can be built on this machine.

    Programs are built where they run, for every instruction that CPU, or GPU, has.
    """
    for program in programs:
        if program.target not in node.targets():
            raise CompressionError(
                f"target {program.target} cannot be built on this machine, which has "
                f"{', '.join(node.targets()) or 'no target'}; run the job on a node of that kind"
            )
        for kind in kinds_of(program):
            if kind in REQUIRED:
                REQUIRED[kind]()
