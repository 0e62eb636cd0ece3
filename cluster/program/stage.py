"""One stage of a layout, loaded: what arrives in, what leaves out.

arrives ─┬─ what the program uses → Program.run → what it makes ─┬─→ leaves
         └─ what only a later stage uses ────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.artifact.layout import Layout, Shard
from cluster.errors import ProgramError
from cluster.program.program import Program
from cluster.tensors import TensorSpec


class StageProgram:
    """A shard's program between the tensors that cross the cuts around its stage."""

    def __init__(self, layout: Layout, shard: Shard, program: Program) -> None:
        self._program = program
        self._arrives = layout.crossing[shard.stage]
        arriving = [spec.name for spec in self._arrives]
        used = shard.program.inputs or ()
        made = [spec.name for spec in shard.outputs]
        self._used = [arriving.index(spec.name) for spec in used]
        self._leaves = [
            _Origin(True, made.index(spec.name))
            if spec.name in made
            else _Origin(False, arriving.index(spec.name))
            for spec in layout.crossing[shard.stage + 1]
        ]

    @property
    def arrives(self) -> tuple[TensorSpec, ...]:
        """The tensors that :meth:`run` takes."""
        return self._arrives

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute one batch: arrays ``[batch, ...]`` as ``arrives`` in, what leaves the stage out.

        Raises ProgramError as the program does, and if the arrays are not as many.
        """
        if len(arrays) != len(self._arrives):
            raise ProgramError(
                f"{len(arrays)} tensors arrived, this stage takes "
                f"{', '.join(spec.name for spec in self._arrives)}"
            )
        made = self._program.run([arrays[index] for index in self._used])
        return [made[o.index] if o.made else arrays[o.index] for o in self._leaves]


class _Origin:
    """Where a leaving tensor comes from: the program, or what arrived."""

    __slots__ = ("index", "made")

    def __init__(self, made: bool, index: int) -> None:
        self.made = made
        self.index = index
