"""What a machine must have before a kind of program can be built on it.

Cheap to import and asked first, so that a missing tool is named before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cluster.compression import native_runner
from cluster.config.recipe import ProgramBuild

REQUIRED: dict[str, Callable[[], object]] = {"aoti": native_runner.compiler}
"""Kind of program → raises CompressionError naming what is missing to build it."""


def check(programs: Iterable[ProgramBuild]) -> None:
    """Raise CompressionError unless every one of ``programs`` can be built on this machine."""
    for kind in {program.kind for program in programs}:
        REQUIRED[kind]()
