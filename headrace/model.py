"""``headrace.load``: an artifact's program in this process.

name → store → Artifact → program for this node → Model.run(arrays) → outputs by name
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.lookup import open_artifact
from cluster.artifact.manifest import Manifest
from cluster.errors import RequestError
from cluster.program import program as programs
from cluster.protocol.indices import IndexLimits
from cluster.tensors import TensorSpec

Arrays = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


class Model:
    """Loaded artifact. Several threads may use it; one computes at a time."""

    def __init__(self, artifact: Artifact, program: programs.Program) -> None:
        self.artifact = artifact
        self._program = program
        self._limits = IndexLimits(self.manifest.inputs, self.manifest.index_limits)
        self._lock = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """Inputs, outputs, labels, files, measurements."""
        return self.artifact.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each output, in their order; empty for embeddings and unnamed numbers."""
        return self.manifest.labels

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Compute one batch; return the outputs by name, each ``[batch, ...]``.

        ``arrays``: the only input, all inputs in the manifest's order, or by name. Each has the
        dtype of its spec and the shape ``[batch, ...]``, with equal batches of one item or more.
        RequestError, with the array given and the spec expected; ProgramError if it fails.
        """
        specs = self.manifest.inputs
        batch = _in_order(arrays, specs)
        for spec, array in zip(specs, batch, strict=True):
            _check(array, spec)
        sizes = {len(array) for array in batch}
        if len(sizes) > 1:
            counts = ", ".join(f"{s.name} {len(a)}" for s, a in zip(specs, batch, strict=True))
            raise RequestError(f"batch sizes differ: {counts}; give every input as many items")
        self._limits.check(batch)
        with self._lock:
            outputs = self._program.run([np.ascontiguousarray(array) for array in batch])
        names = [spec.name for spec in self.manifest.outputs]
        return dict(zip(names, outputs, strict=True))


def load(
    artifact: Artifact | str | os.PathLike[str],
    store: str | os.PathLike[str] | None = None,
    *,
    compute_threads: int = 1,
) -> Model:
    """Load the fastest program of an artifact that this node can run, its files checked.

    ``artifact``: an artifact, or its name, id, prefix of an id, or directory. ``store``: directory
    or fsspec URI; None: HEADRACE_STORE, else ``~/.headrace/store``. ``compute_threads``: CPU
    threads of one run. ArtifactNotFoundError, ArtifactCorruptError, or ProgramError with a reason
    for each program that does not fit.
    """
    if not isinstance(artifact, Artifact):
        artifact = open_artifact(os.fspath(artifact), None if store is None else os.fspath(store))
    return Model(artifact, programs.load(artifact, compute_threads))


def _in_order(arrays: Any, specs: Sequence[TensorSpec]) -> list[Any]:
    names = [spec.name for spec in specs]
    if isinstance(arrays, Mapping):
        if set(arrays) != set(names):
            raise RequestError(
                f"inputs {', '.join(map(str, arrays)) or 'none'}: expected {', '.join(names)}"
            )
        return [arrays[name] for name in names]
    batch = list(arrays) if isinstance(arrays, Sequence) else [arrays]
    if len(batch) != len(names):
        raise RequestError(f"{len(batch)} arrays: expected {len(names)}: {', '.join(names)}")
    return batch


def _check(array: Any, spec: TensorSpec) -> None:
    expected = f"{spec.dtype}[batch{''.join(f', {size}' for size in spec.item_shape)}]"
    if not isinstance(array, np.ndarray):
        raise RequestError(
            f"input {spec.name} is of type {type(array).__name__}, expected a numpy array "
            f"{expected}"
        )
    if array.dtype != spec.dtype or array.shape[1:] != spec.item_shape or array.ndim == 0:
        raise RequestError(
            f"input {spec.name} is {array.dtype}{list(array.shape)}, expected {expected}; convert "
            "it with astype, and add the batch dimension with array[None]"
        )
    if len(array) == 0:
        raise RequestError(f"input {spec.name} has a batch of 0 items, expected at least 1")
