"""One run of the compression job, from the recipe to a published artifact or a refusal.

    recipe ─ key ─→ finished before? ─→ that artifact
                 └→ model, data → trained → baseline
                                → other steps → weights.safetensors → programs
                                → evaluated in a fresh process → gate → publish | reject

Everything is written below one directory of the store, which goes away with the job: what
is to stay becomes an artifact by one rename.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import torch
from safetensors.torch import save_file

from cluster import __version__, fingerprint
from cluster.artifact.artifact import MANIFEST, REPORT, TOKENIZER, WEIGHTS, Artifact, describe
from cluster.artifact.manifest import Manifest, Measurement
from cluster.artifact.store import ArtifactStore
from cluster.compression import builder, evaluate, gate, reference, requirements, steps
from cluster.compression.evaluate import Evaluated
from cluster.compression.quantize import tensors_of
from cluster.compression.report import gate_lines, report, row, table
from cluster.compression.work import StepContext, Work
from cluster.config.recipe import ImageInput, Recipe, TextInput
from cluster.data import LabelledData, PreparedSamples, load_data
from cluster.models import load_model, source_fingerprint
from cluster.program import node
from cluster.progress import Print

_CODE = Path(fingerprint.__file__).parent
"""The whole library: how models, data and programs are read, prepared and compiled decides what
is built, as much as the recipe does."""


@dataclass(frozen=True)
class Outcome:
    """How the job ended. ``artifact`` is None when the gate refused the build."""

    artifact: Artifact | None


@dataclass
class _Clock:
    """Seconds spent in each phase of the job."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


def run(recipe: Recipe, store: ArtifactStore, out: Print) -> Outcome:
    """Build what the recipe asks for, unless the store holds it already.

    Raises SourceError for a model or data source that cannot be used and CompressionError for
    a step or program that cannot be made; the store then holds nothing new.
    """
    requirements.check(recipe.programs)
    data = load_data(recipe.data, recipe.seed)
    origin = _origin(recipe, data)
    key = sha256(f"{origin}\n{recipe.model_dump_json()}".encode()).hexdigest()
    with store.building(key) as room:  # a second job with this recipe waits here
        if (done := store.find_build(key)) is not None:
            out(f"artifact {done.id} exists already: this recipe was built before")
            return Outcome(done)
        out(f"recipe   {recipe.name}: {recipe.model.source}")
        return _build(recipe, key, origin, data, store, room, out)


def _build(
    recipe: Recipe, key: str, origin: str, data: LabelledData, store: ArtifactStore,
    room: Path, out: Print,
) -> Outcome:  # fmt: skip
    workspace, scratch = room / "artifact", room / "scratch"
    workspace.mkdir()
    scratch.mkdir()
    clock = _Clock()
    started = builder.start(recipe.programs)
    torch.manual_seed(recipe.seed)  # a new head starts from it
    model = load_model(recipe.model, data.labels)
    tokenizer = model.files.get(TOKENIZER)
    train = PreparedSamples(data.train, model.inputs, model.preprocess, tokenizer)
    context = StepContext(train, recipe.seed, out)
    work = Work(model.module, model.inputs, lambda: tensors_of(model.module))
    out(f"data     {len(data.train)} training and {len(data.test)} held-out samples")
    split = steps.leading_training(recipe.steps)
    with clock.phase("train"):
        work = steps.trained(work, recipe.steps[:split], context, store, origin, scratch)
    baseline = scratch / "baseline.safetensors"
    save_file(work.weights(), baseline)
    with clock.phase("compress"):
        work = steps.run(work, recipe.steps[split:], context)
    save_file(work.weights(), workspace / WEIGHTS)
    for name, content in model.files.items():
        (workspace / name).write_bytes(content)
    expected = scratch / "expected.npz"
    _record(work, train, expected)
    with clock.phase("compile"):
        programs = builder.build(work, recipe.programs, workspace, started, out)
    manifest = Manifest(
        name=recipe.name,
        recipe=recipe.model_dump(mode="json"),
        recipe_key=key,
        inputs=model.inputs,
        outputs=model.outputs,
        image=model.preprocess if isinstance(model.preprocess, ImageInput) else None,
        text=model.preprocess if isinstance(model.preprocess, TextInput) else None,
        labels=model.labels,
        files={},
        programs=programs,
        quantized_operators=work.quantized_operators,
    )
    _write(manifest, workspace)
    with clock.phase("evaluate"):
        found = evaluate.run(workspace, recipe, baseline, expected, scratch, out)
    return _decide(recipe, manifest, found, clock.seconds, store, workspace, out)


def _decide(
    recipe: Recipe, manifest: Manifest, found: Evaluated, seconds: dict[str, float],
    store: ArtifactStore, workspace: Path, out: Print,
) -> Outcome:  # fmt: skip
    checks = gate.check(recipe.gate, found)
    content = report(recipe, found, checks, manifest.quantized_operators, seconds)
    lines = [row("baseline (eager float32)", found.baseline, found.baseline)]
    lines.append(row(recipe.name, found.artifact, found.baseline))
    for line in [*table(lines).splitlines(), *gate_lines(checks)]:
        out(line)
    if not all(check.passed for check in checks):
        where = store.reject(recipe.name, manifest.recipe_key, content)
        out(f"rejected by the gate; the report is {where}")
        return Outcome(None)
    (workspace / REPORT).write_bytes(content)
    measured: dict[str, Measurement] = {found.target: found.artifact}
    _write(
        manifest.model_copy(update={"baseline": found.baseline, "measured": measured}), workspace
    )
    artifact = store.publish(workspace)
    out(f"artifact {artifact.id}")
    return Outcome(artifact)


def _record(work: Work, samples: PreparedSamples, file: Path) -> None:
    """Keep what the model answers now, for the compiled program to be compared with."""
    inputs, _ = samples.batch(range(min(reference.SAMPLES, len(samples))))
    with torch.inference_mode():
        logits = work.module(*map(torch.from_numpy, inputs)).numpy()
    reference.record(logits, inputs, file)


def _write(manifest: Manifest, workspace: Path) -> None:
    """Write the manifest with the hash of every file that lies in the workspace."""
    files = {
        str(path.relative_to(workspace)): describe(path)
        for path in sorted(workspace.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = manifest.model_copy(update={"files": files})
    (workspace / MANIFEST).write_bytes(manifest.to_json())


def _origin(recipe: Recipe, data: LabelledData) -> str:
    """Everything besides the recipe's text that decides what is built."""
    code = sorted([*_CODE.rglob("*.py"), *_CODE.rglob("*.cpp")])
    return json.dumps(
        {
            "headrace": __version__,
            "code": fingerprint.of_files(_CODE, code),
            "torch": node.torch_version(),
            "torchao": metadata.version("torchao"),
            "transformers": _transformers() if recipe.model.source.startswith("hf:") else None,
            "cpu": sorted(node.cpu_features()),
            "model": recipe.model.model_dump(mode="json"),
            "model_content": source_fingerprint(recipe.model),
            "data": recipe.data.model_dump(mode="json"),
            "data_content": data.fingerprint,
            "seed": recipe.seed,
        },
        sort_keys=True,
    )


def _transformers() -> str | None:
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return None  # loading the model says so, and how to install it
