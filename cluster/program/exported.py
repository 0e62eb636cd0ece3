"""Loading graphs of torch.export, which PyTorch runs operator by operator.

Slower than compiled code, but it runs wherever this PyTorch does, on any CPU.
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
"""Option: the graph has quantized operators, which torchao brings."""


def load_exported(
    artifact: Artifact,
    entry: ProgramEntry,
    compute_threads: int,
    group: collective.Group | collective.SharedMemoryGroup | None = None,
) -> LoadedProgram:
    """Load an ``exported`` entry; ProgramError if PyTorch cannot read it.

    ``group``: of the ranks whose slices the entry's program is one of, not the native runner's.
    """
    # Such a file can run code when it is read: only bytes that the manifest names are.
    package = artifact.file(entry.file)
    # Programs of this kind are run by PyTorch's Python package, which no other needs.
    import torch

    if group is not None:
        collective.register()
    if QUANTIZED in entry.options:
        # Imported for the operators that it registers.
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401

    try:
        module = torch.export.load(package).module()
    # What a foreign file raises depends on where reading it breaks off.
    except Exception as error:
        raise ProgramError(f"{package}: cannot be loaded: {error}") from error
    compute = compute_with(module, compute_threads, entry.target)
    if group is not None:
        compute = _reducing(compute, cast(collective.Group, group))
    return LoadedProgram(entry, artifact.manifest.inputs_of(entry), "python", compute)


def _reducing(compute: Compute, group: collective.Group) -> Compute:
    def computed(arrays: list) -> list:
        with collective.using(group):
            return compute(arrays)

    return computed
