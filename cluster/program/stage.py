"""One loaded stage of a layout, between the tensors that arrive and those that leave.

arrives ─┬─ inputs of the program → Program.run → outputs ─┬─→ leaves
         └─ tensors that only a later stage uses ──────────┘
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.artifact.layout import Layout, Shard
from cluster.errors import ProgramError
from cluster.program.program import Program
from cluster.tensors import TensorSpec


class StageProgram:
    """A shard's program, between the tensors that cross the cuts around its stage."""

    def __init__(self, layout: Layout, shard: Shard, program: Program) -> None:
        self._program = program
        self._arrives = layout.crossing[shard.stage]
        arriving = [spec.name for spec in self._arrives]
        used = shard.program.inputs or ()
        outputs = [spec.name for spec in shard.outputs]
        self._used = [arriving.index(spec.name) for spec in used]
        self._leaves = [
            _Origin(True, outputs.index(spec.name))
            if spec.name in outputs
            else _Origin(False, arriving.index(spec.name))
            for spec in layout.crossing[shard.stage + 1]
        ]

    @property
    def arrives(self) -> tuple[TensorSpec, ...]:
        """Tensors that :meth:`run` takes."""
        return self._arrives

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute one batch: arrays ``[batch, ...]`` as ``arrives`` in, leaving tensors out.

        Raises ProgramError as the program does, and for a wrong number of arrays.
        """
        if len(arrays) != len(self._arrives):
            raise ProgramError(
                f"{len(arrays)} tensors arrived, this stage expects "
                f"{', '.join(spec.name for spec in self._arrives)}"
            )
        outputs = self._program.run([arrays[index] for index in self._used])
        return [
            outputs[origin.index] if origin.computed else arrays[origin.index]
            for origin in self._leaves
        ]


class _Origin:
    """Origin of a leaving tensor: the program's outputs, or the arriving tensors."""

    __slots__ = ("computed", "index")

    def __init__(self, computed: bool, index: int) -> None:
        self.computed = computed
        self.index = index
