"""Requirements of a machine on which programs are built.

This module is cheap to import and checked first, so that a missing tool is reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cluster.compression.programs import native_runner
from cluster.config.recipe import ProgramBuild
from cluster.errors import CompressionError
from cluster.program import node
from cluster.program.openvino import INSTALL

OPENVINO = ("openvino", "nncf")
"""Packages of OpenVINO programs: the compiler, and its quantizer."""


def openvino_packages() -> None:
    """Raise CompressionError, naming it, if a package that OpenVINO programs need is missing."""
    missing = [name for name in OPENVINO if node.installed_version(name) is None]
    if missing:
        raise CompressionError(
            f"programs of kind openvino need {' and '.join(missing)}, not installed here: "
            f"{INSTALL}, or remove the kind from programs.kinds"
        )


REQUIRED: dict[str, Callable[[], object]] = {
    "aoti": native_runner.compiler,
    "openvino": openvino_packages,
}
"""Kind of program → check that raises CompressionError with the missing tool."""


def kinds_of(program: ProgramBuild) -> tuple[str, ...]:
    """Return the kinds to build: the recipe's, else aoti, and openvino if it is available.

    openvino is available if it is installed and the target is an x86 CPU.
    """
    if program.kinds is not None:
        return program.kinds
    installed = all(node.installed_version(name) is not None for name in OPENVINO)
    return ("aoti", "openvino") if installed and program.target == "cpu-x86" else ("aoti",)


def check(programs: Iterable[ProgramBuild]) -> None:
    """Raise CompressionError unless every one of ``programs`` can be built on this machine.

    Programs are built on their target, for all instructions of its CPU or GPU.
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
