"""A loaded program of any kind, whose inputs are checked before each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cluster import independence
from cluster.artifact.entries import ProgramEntry
from cluster.errors import ProgramError
from cluster.program.index_checks import outputs_of, refusal_of
from cluster.tensors import TensorSpec

Compute = Callable[[list[np.ndarray]], list[np.ndarray]]
"""C-contiguous arrays ``[batch, ...]`` in the inputs' order → new arrays in the outputs' order."""


class LoadedProgram:
    """See :class:`cluster.program.program.Program`."""

    def __init__(
        self,
        entry: ProgramEntry,
        inputs: tuple[TensorSpec, ...],
        runner: str,
        compute: Compute,
        *,
        one_by_one: bool = False,
    ) -> None:
        """``one_by_one``: the program computes one item per run."""
        self.entry = entry
        self.runner = runner
        self._inputs = inputs
        self._compute = independence.one_by_one(compute) if one_by_one else compute

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See :class:`cluster.program.program.Program`."""
        # Compiled code does not check its inputs and would read beyond the memory of a wrong one.
        if not self._matches(inputs):
            expected = ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in self._inputs)
            raise ProgramError(
                f"{self.entry.file} takes {expected}, C-contiguous and with equal batch sizes; "
                f"got {_describe(inputs)}"
            )
        try:
            return outputs_of(self._compute(list(inputs)), self.entry.index_checks)
        except (RuntimeError, ValueError, IndexError) as error:
            if (refusal := refusal_of(error)) is not None:
                raise refusal from error
            raise ProgramError(
                f"{self.entry.file} failed on {_describe(inputs)}: {error}"
            ) from error

    def _matches(self, inputs: Sequence[np.ndarray]) -> bool:
        return len(inputs) == len(self._inputs) and all(
            array.dtype == spec.dtype
            and array.shape == (inputs[0].shape[:1] + spec.item_shape)
            and len(array) > 0
            and array.flags.c_contiguous
            for spec, array in zip(self._inputs, inputs, strict=True)
        )


def dispatch_by_batch(dynamic: Compute, static: Mapping[int, Compute]) -> Compute:
    """Return a function that runs the program of the exact batch size, else ``dynamic``."""
    if not static:
        return dynamic
    return lambda arrays: static.get(len(arrays[0]), dynamic)(arrays)


def _describe(arrays: Sequence[np.ndarray]) -> str:
    return ", ".join(
        f"{array.dtype}{list(array.shape)}"
        f"{'' if array.flags.c_contiguous else ' (not C-contiguous)'}"
        for array in arrays
    )
