"""Programs without a job: a model's artifact in the workspace, as before the gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cluster.artifact.artifact import MANIFEST, Artifact, describe
from cluster.artifact.manifest import Manifest
from cluster.compression.evaluation import reference
from cluster.compression.programs import builder
from cluster.compression.work import Precision, Work
from cluster.config.recipe import Recipe
from cluster.config.steps import Quantize
from cluster.tensors import TensorSpec

Assemble = Callable[..., "Assembled"]
"""Function of the fixture ``assemble``."""


@dataclass(frozen=True)
class Assembled:
    """Artifact whose programs are built and not yet measured."""

    artifact: Artifact
    built: builder.Programs
    recipe: Recipe
    baseline: Path
    expected: Path
    scratch: Path


def assembling(tmp_path: Path) -> Assemble:
    """Return the fixture's function, which writes below ``tmp_path``."""

    def make(
        initial: Any, *kinds: str, work: Work | None = None, batches: tuple[int, ...] = (1,)
    ) -> Assembled:
        work = work or initial.work
        work.module.eval()
        raw = initial.recipe.model_dump(mode="json")
        raw["programs"] = [{"target": "cpu-x86", "kinds": kinds or None}]
        raw["evaluation"] |= {"batches": batches, "repeats": 5}
        recipe = Recipe.model_validate(raw)
        job = replace(initial.job, recipe=recipe)
        workspace, scratch = tmp_path / "workspace", tmp_path / "scratch"
        workspace.mkdir()
        scratch.mkdir()
        save_file(work.weights(), workspace / "weights.safetensors")
        save_file(initial.work.weights(), scratch / "baseline.safetensors")
        inputs, _ = initial.test.batch(range(reference.SAMPLES))
        with torch.inference_mode():
            outputs = work.module(*map(torch.from_numpy, inputs)).numpy()
        reference.record(outputs, inputs, scratch / "expected.npz")
        built = builder.build(work, workspace, job)
        classes = outputs.shape[1]
        manifest = Manifest(
            name="bench",
            recipe=recipe.model_dump(mode="json"),
            recipe_key="0" * 64,
            inputs=work.inputs,
            outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, classes)),),
            image=recipe.model.image,
            text=None,
            labels=tuple(map(str, range(classes))),
            files={},
            programs=built.entries,
            quantized_operators=work.quantized_operators,
        )
        return Assembled(
            write(workspace, manifest),
            built,
            recipe,
            scratch / "baseline.safetensors",
            scratch / "expected.npz",
            scratch,
        )

    return make


def write(workspace: Path, manifest: Manifest) -> Artifact:
    """Write the manifest with the current hashes of the files; return the artifact."""
    files = {
        str(path.relative_to(workspace)): describe(path)
        for path in workspace.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }
    manifest = manifest.model_copy(update={"files": files})
    (workspace / MANIFEST).write_bytes(manifest.to_json())
    return Artifact.read(workspace)


def quantized(work: Work, scheme: str, kept_layers: tuple[str, ...] = (), **fields: Any) -> Work:
    """Return the work with a quantize step's description, but computing in float32.

    It serves compilers that quantize by themselves.
    """
    step = Quantize.model_validate({"kind": "quantize", "scheme": scheme, **fields})
    return replace(work, precision=Precision(step, work.module, 3, kept_layers))
