"""Loader of the model's own Python code with the artifact's weights, without a compiler.

manifest.recipe.model → load_model → module of full size ┐
weights.safetensors → compressed tensors ────────────────┴ rebuild.fit → module
"""

from __future__ import annotations

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.config.sources import ModelSource
from cluster.errors import ProgramError, SourceError
from cluster.program.loaded import LoadedProgram
from cluster.program.pytorch import compute_with, device_of, dtype_of

PRECISION = "precision"
"""Option: precision of weights and computation: f32, bf16 or f16."""


def load_eager(artifact: Artifact, entry: ProgramEntry, compute_threads: int) -> LoadedProgram:
    """Load an ``eager`` entry; ProgramError if the model's source is not on this node."""
    weights = artifact.file(entry.file)
    # Imported here: only programs of this kind need PyTorch's Python package.
    from cluster.models import checkpoints, load_model, rebuild

    manifest = artifact.manifest
    # The artifact's weights replace the source's. Its steps are history: validating them against
    # today's config classes is unnecessary.
    source = ModelSource.model_validate(manifest.recipe["model"])
    source = source.model_copy(update={"weights": None})
    precision = entry.options[PRECISION]
    try:
        module = load_model(source, manifest.labels, checked=True).module
        rebuild.fit(module, checkpoints.read(weights))
    except SourceError as error:
        raise ProgramError(
            f"{entry.file}: the model cannot be rebuilt from {source.source}: {error}"
        ) from error
    # Buffers that are not stored in a file were built in float32.
    module.to(device=device_of(entry.target), dtype=dtype_of(precision)).eval()
    compute = compute_with(module, compute_threads, entry.target, precision)
    return LoadedProgram(entry, manifest.inputs, "python", compute, one_by_one=manifest.one_by_one)
