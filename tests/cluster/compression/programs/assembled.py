"""Programs without a job: a model's artifact in the workspace, as before the gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from cluster.artifact.artifact import MANIFEST, Artifact, describe
from cluster.artifact.entries import ProgramEntry
from cluster.artifact.manifest import Manifest
from cluster.compression.equivalence import outputs_of
from cluster.compression.evaluation import reference
from cluster.compression.evaluation.reference import Outputs
from cluster.compression.programs import builder
from cluster.compression.work import Job, Precision, Work
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
    outputs: dict[str, Outputs]
    scratch: Path

    @property
    def expected(self) -> Path:
        """Expected outputs of the first program."""
        return next(iter(self.outputs.values())).expected


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
        built = builder.build(work, workspace, job)
        outputs = {e.key: expected_outputs(e, work, job, scratch) for e in built.entries}
        classes = job.model.outputs[0].shape[1]
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
            outputs,
            scratch,
        )

    return make


def expected_outputs(entry: ProgramEntry, work: Work, job: Job, scratch: Path) -> Outputs:
    """Write the outputs of what the program was made from; return the program's files."""
    name = entry.key.replace("/", ".")
    files = Outputs(scratch / f"{name}.expected.npz", scratch / f"{name}.computed.npz")
    source = builder.BUILDERS[entry.kind].source(work)
    limit = reference.limit_of(work.precision.step.scheme if work.precision else None, entry.target)
    reference.record(outputs_of(source, job.probes), job.probes, limit, files.expected)
    return files


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
