"""Loader of torch.export graphs, which PyTorch runs operator by operator.

Slower than compiled code, but portable: it runs on every CPU that this PyTorch supports.
"""

from __future__ import annotations

from typing import cast

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.errors import ProgramError
from cluster.program import collective
from cluster.program.loaded import Compute, LoadedProgram
from cluster.program.pytorch import compute_with

QUANTIZED = "quantized"
"""Option: the graph has quantized operators, which torchao provides."""


def load_exported(
    artifact: Artifact,
    entry: ProgramEntry,
    compute_threads: int,
    group: collective.Group | collective.SharedMemoryGroup | None = None,
) -> LoadedProgram:
    """Load an ``exported`` entry; ProgramError if PyTorch cannot read it.

    ``group``: ranks of the model's slices, if the program is one; not the native runner's group.
    """
    # Reading such a file can run code, so only bytes that match the manifest are read.
    package = artifact.file(entry.file)
    # Imported here: only programs of this kind need PyTorch's Python package.
    import torch

    if group is not None:
        collective.register()
    if QUANTIZED in entry.options:
        # Imported for its registered operators.
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401

    try:
        module = torch.export.load(package).module()
    # The type of the error depends on the point at which reading fails.
    except Exception as error:
        raise ProgramError(f"{package}: cannot be loaded: {error}") from error
    compute = compute_with(module, compute_threads, entry.target)
    if group is not None:
        compute = _reducing(compute, cast(collective.Group, group))
    return LoadedProgram(
        entry,
        artifact.manifest.inputs_of(entry),
        "python",
        compute,
        one_by_one=artifact.manifest.one_by_one,
    )


def _reducing(compute: Compute, group: collective.Group) -> Compute:
    def reduced(arrays: list) -> list:
        with collective.using(group):
            return compute(arrays)

    return reduced
