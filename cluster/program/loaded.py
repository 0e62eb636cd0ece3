"""A program in memory: what every kind's loader hands back, its inputs checked before each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cluster.artifact.entries import ProgramEntry
from cluster.errors import ProgramError
from cluster.tensors import TensorSpec

Compute = Callable[[list[np.ndarray]], list[np.ndarray]]
"""C-contiguous arrays ``[batch, ...]`` in the inputs' order → new arrays in the outputs' order."""


class LoadedProgram:
    """See :class:`cluster.program.program.Program`."""

    def __init__(
        self, entry: ProgramEntry, inputs: tuple[TensorSpec, ...], runner: str, compute: Compute
    ) -> None:
        self.entry = entry
        self.runner = runner
        self._inputs = inputs
        self._compute = compute

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See :class:`cluster.program.program.Program`."""
        # Compiled code trusts its inputs: it would read memory beyond a wrong one.
        if not self._takes(inputs):
            expected = ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in self._inputs)
            raise ProgramError(
                f"{self.entry.file} takes {expected}, C-contiguous and of one batch size; "
                f"got {_shown(inputs)}"
            )
        try:
            return self._compute(list(inputs))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ProgramError(f"{self.entry.file} failed on {_shown(inputs)}: {error}") from error

    def _takes(self, inputs: Sequence[np.ndarray]) -> bool:
        return len(inputs) == len(self._inputs) and all(
            array.dtype == spec.dtype
            and array.shape == (inputs[0].shape[:1] + spec.item_shape)
            and len(array) > 0
            and array.flags.c_contiguous
            for spec, array in zip(self._inputs, inputs, strict=True)
        )


def by_batch(dynamic: Compute, static: Mapping[int, Compute]) -> Compute:
    """Runs the program that was compiled for exactly the batch at hand, else ``dynamic``."""
    if not static:
        return dynamic
    return lambda arrays: static.get(len(arrays[0]), dynamic)(arrays)


def _shown(arrays: Sequence[np.ndarray]) -> str:
    return ", ".join(
        f"{array.dtype}{list(array.shape)}{'' if array.flags.c_contiguous else ' with gaps'}"
        for array in arrays
    )
