"""Recipes of this repository: they are valid, and their references exist."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.artifact.artifact import REPORT
from cluster.artifact.entries import Latency
from cluster.artifact.manifest import Drop, Measurement
from cluster.compression.evaluation.evaluate import EvaluationResult
from cluster.compression.evaluation.gate import check
from cluster.compression.record import BuildRecord
from cluster.config.base import load, parse
from cluster.config.locate import located
from cluster.config.recipe import Recipe
from cluster.config.sources import DataSource, ModelSource
from cluster.errors import ConfigError

FOLDER = Path(__file__).parents[3] / "deployments" / "recipes"
RESULTS = json.loads(
    (FOLDER.parents[1] / "benchmarks/measured/compression-2026-11-22.json").read_text()
)
FILES = sorted(FOLDER.glob("*.yaml"))
REAL_MODELS = {
    "cifar-resnet20-search",
    "cifar-resnet20-distilled",
    "cifar-resnet56-prune",
    "cifar-resnet56-int8",
    "cifar-resnet56-prune-int8",
    "mobilenet_v3_large-int8",
    "efficientnet_b0-int8",
    "resnet50-int8",
    "vit_b_16-prune",
    "vit_b_16-dynamic",
    "minilm-int8",
    "digits-search",
}


@pytest.fixture
def _beside_the_recipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import ``python:`` sources from the recipes' folder, as their jobs do."""
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in ("cifar_resnet", "texts"):
        sys.modules.pop(name, None)


def test_every_real_model_has_its_recipe() -> None:
    assert {file.stem for file in FILES} >= REAL_MODELS


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recipe_is_valid_and_documented(file: Path) -> None:
    recipe = load(file, Recipe)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.name == file.stem
    header = re.match(r"(#.*\n)+", file.read_text())
    assert header, "the recipe lacks the comment at its top that describes it"
    if file.stem in REAL_MODELS:
        assert "minutes" in header[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_paths_outside_checkout_come_from_one_variable(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(file, Recipe)
    for name in ("resnet20", "resnet56"):
        (tmp_path / f"{name}_cifar10.safetensors").touch()
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    resolved = located(recipe, FOLDER)
    if not recipe.name.startswith("cifar-"):
        assert resolved == recipe
        return
    assert Path(resolved.model.weights or "").is_file()
    for source in (resolved.data.source, resolved.data.test_source):
        assert str(source).startswith(f"safetensors:{tmp_path}/cifar10_")
    monkeypatch.delenv("HEADRACE_DATA")
    with pytest.raises(ConfigError, match="HEADRACE_DATA, which is not set"):
        located(recipe, FOLDER)


@pytest.mark.usefixtures("_beside_the_recipes")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_references_of_recipe_exist(file: Path) -> None:
    from cluster.factory import find_factory

    recipe = load(file, Recipe)
    for source in (recipe.model.source, recipe.data.source):
        kind, _, rest = source.partition(":")
        if kind == "python":
            assert find_factory(rest)
    for step in recipe.steps:
        if step.kind == "distill" and step.teacher is not None:
            assert (FOLDER / f"{step.teacher.artifact}.yaml").is_file()


def test_recipes_of_same_network_share_training() -> None:
    shared = {
        (recipe.model, recipe.data, recipe.steps[0], recipe.seed)
        for recipe in (load(file, Recipe) for file in FILES if "resnet56" in file.stem)
    }
    assert len(shared) == 1


@pytest.mark.usefixtures("_beside_the_recipes")
def test_texts_are_unique_and_without_labels() -> None:
    from cluster.data import load_data

    data = load_data(DataSource(source="python:texts:sentences", test_share=0.5), seed=0)
    assert data.labels == ()
    splits = (data.train, data.validation, data.test)
    texts = {split.raw(i) for split in splits for i in range(len(split))}
    assert len(texts) == sum(map(len, splits)) == 200
    assert not [text for text in texts if "{" in str(text)]


@pytest.mark.usefixtures("_beside_the_recipes")
def test_smallest_search_has_model_for_its_data() -> None:
    from cluster.data import PreparedSamples, load_data
    from cluster.models import load_model

    recipe = load(FOLDER / "digits-search.yaml", Recipe)
    data = load_data(recipe.data, recipe.seed)
    model = load_model(ModelSource.model_validate(recipe.model), data.labels)
    samples = PreparedSamples(data.test, model.inputs, model.preprocess)
    (images,), _ = samples.batch(range(3))
    assert images.shape == (3, 3, 16, 16)
    assert model.labels == tuple("0123456789")


MEASURED = {
    "cifar-resnet56": ("resnet20-distilled", "the teacher, ResNet-56"),
    "cifar-resnet56-int8": ("resnet56-int8", "int8"),
    "cifar-resnet56-prune": ("resnet56-prune", "pruned"),
    "cifar-resnet56-prune-int8": ("resnet56-prune-int8", "pruned, int8"),
    "cifar-resnet20-distilled": ("resnet20-distilled", "ResNet-20 from the teacher"),
    "cifar-resnet20-search": ("resnet20-search", "found by the search"),
    "minilm-int8": ("minilm-int8", "dynamic int8"),
}
"""Recipe → case and build of the compression benchmark, which runs with an open gate."""


@pytest.mark.parametrize("name", MEASURED)
def test_gate_of_recipe_accepts_benchmark_results(name: str) -> None:
    key, subject = MEASURED[name]
    (case,) = (case for case in RESULTS["cases"] if case["key"] == key)
    (build,) = (build for build in case["rounds"] if build["subject"] == subject)
    figures, program = build["figures"], f"cpu-x86/{build['texts']['program']}"
    recipe = load(FOLDER / f"{name}.yaml", Recipe)

    def measured(subject: str, size: float, drop: Drop | None) -> Measurement:
        medians = {batch: figures[f"{subject} p50 ms at batch {batch}"] for batch in (1, 8)}
        return Measurement(
            accuracy=figures["score"],
            accuracy_low=figures["score, low"],
            accuracy_high=figures["score, high"],
            samples=int(figures["samples"]),
            drop=drop,
            latency=tuple(Latency(batch=n, p50_ms=ms, p99_ms=ms) for n, ms in medians.items()),
            size_bytes=int(size),
        )

    drop = Drop(mean=figures["drop"], upper=figures["drop, upper bound"], confidence=0.95)
    evaluation = EvaluationResult(
        programs={program: measured("program", figures["bytes"], drop)},
        baselines={program: measured("eager", figures["float bytes"], None)},
    )
    # The benchmark of that day did not measure agreement.
    gate = recipe.limits_for().model_copy(update={"min_agreement": None})
    checks = check(gate, evaluation, float_bytes=int(figures["float bytes"]), wants_quantized=False)
    assert [record.reason for record in checks if not record.passed] == []
    assert {"max_accuracy_drop", "min_speedup", "max_size_share"} < {
        record.name for record in checks
    }


LARGE = [
    file for file in FILES if "Without a checkpoint the weights are random" in file.read_text()
]


@pytest.mark.slow
@pytest.mark.parametrize("file", LARGE, ids=lambda file: file.stem)
def test_large_model_is_built_by_its_recipe(file: Path, tmp_path: Path) -> None:
    """Few samples and no limit of speed: only the recipe's full build measures those."""
    from cluster.artifact.local import LocalStore
    from cluster.compression import job

    raw = load(file, Recipe).model_dump(mode="json")
    raw["data"] |= {"limit": 24}
    raw["evaluation"] |= {"samples": 4, "repeats": 5, "batches": [1]}
    raw["programs"] = [{"kinds": ["openvino"]}]
    raw["gate"] |= {"min_speedup": None}
    lines: list[str] = []
    outcome = job.run(parse(raw, Recipe, file.stem), LocalStore(tmp_path), lines.append)
    assert outcome.artifact is not None, "\n".join(lines)
    report = BuildRecord.model_validate_json(outcome.artifact.file(REPORT).read_bytes())
    assert report.random_weights
    first, last = report.steps[0].size_before, report.steps[-1].size_after
    if any(step.kind == "quantize" for step in report.steps):
        assert report.quantized_operators > 30
        # Known gap: projections of nn.MultiheadAttention stay float, a third of a ViT.
        rest = [layer for layer in report.layers if "self_attention" not in layer.name]
        assert sum(layer.bytes for layer in rest) < 0.4 * sum(
            layer.baseline_bytes for layer in rest
        )
        assert last.weight_bytes < first.weight_bytes
    else:
        assert last.macs < 0.8 * first.macs
        assert last.parameters < 0.8 * first.parameters
    assert report.programs["cpu-x86/openvino"].size_bytes < 0.8 * report.baseline.size_bytes
