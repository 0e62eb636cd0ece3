"""Cases of the compression benchmark without building anything, and its table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import benchmark_runs as runs
import pytest

from benchmarks.artifacts.builder import reduced
from benchmarks.compression.builds import Build, ReportingBuilder
from benchmarks.compression.cases import CASES, resnet20_search
from benchmarks.compression.cuda_cases import CUDA_CASES
from benchmarks.compression.table import markdown
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.results import CaseResult, Measurement
from cluster.artifact.entries import Latency
from cluster.artifact.manifest import Drop, Score
from cluster.artifact.manifest import Measurement as ProgramMeasurement
from cluster.compression.record import BuildRecord, ModelSize, StepRecord
from cluster.config.recipe import Recipe
from cluster.program import node

BUILD = Build(
    title="int8",
    artifact="a" * 64,
    metric="accuracy",
    score=0.87,
    low=0.86,
    high=0.88,
    samples=10000,
    drop=0.001,
    drop_upper=0.002,
    program="openvino",
    latency_ms={1: 2.0, 8: 8.0},
    eager_ms={1: 10.0, 8: 56.0},
    size_bytes=900_000,
    float_bytes=3_400_000,
    macs=60_000_000,
    eager_macs=126_000_000,
    random_weights=False,
    seconds={"search": 700.0},
)


def measured(build: Build) -> Measurement:
    return Measurement(number=1, **dict(build.reading()))


def result(*builds: Build) -> CaseResult:
    return CaseResult(key="one", title="One case", rounds=tuple(map(measured, builds)))


# ---------------------------------------------------------------------------- table and figures


def test_build_is_read_back_from_its_figures() -> None:
    for build in (BUILD, replace(BUILD, macs=None, eager_macs=None, random_weights=True)):
        assert Build.read(build.reading()) == build


def test_table_shows_each_build() -> None:
    text = markdown(runs.run("compression", result(BUILD)))
    assert runs.row(text, "One case | int8")[2:] == [
        "accuracy 0.8700 (0.8600 to 0.8800)",
        "0.10 (0.20)",
        "openvino",
        "60.0",
        "0.90 of 3.40",
        "2.00",
        "5.00×",
        "8.00 (8)",
        "7.00×",
    ]
    assert "Random weights" not in text


def test_table_marks_random_weights() -> None:
    text = markdown(runs.run("compression", result(replace(BUILD, random_weights=True))))
    assert "| int8 ¹ |" in text
    assert "¹ Random weights" in text


def test_build_has_the_figures_of_its_fastest_program() -> None:
    def measured(p50_ms: float, drop: Drop | None) -> ProgramMeasurement:
        return ProgramMeasurement(
            accuracy=0.9,
            accuracy_low=0.8,
            accuracy_high=0.95,
            samples=100,
            drop=drop,
            latency=(Latency(batch=1, p50_ms=p50_ms, p99_ms=9.0),),
            size_bytes=int(p50_ms * 100),
        )

    score = Score(value=0.9, low=0.8, high=0.95, samples=100)

    def step(before: int, after: int) -> StepRecord:
        sizes = [
            ModelSize(parameters=1, nonzero=1, weight_bytes=4, macs=macs)
            for macs in (before, after)
        ]
        return StepRecord(
            kind="prune",
            title="prune",
            settings={},
            seconds=1.0,
            before=score,
            after=score,
            size_before=sizes[0],
            size_after=sizes[1],
            details={},
        )

    record = BuildRecord(
        name="m",
        recipe={},
        accepted=True,
        checks=(),
        metric="accuracy",
        target="cpu-x86",
        fastest="openvino",
        baseline=measured(8.0, None),
        programs={
            "cpu-x86/aoti": measured(4.0, None),
            "cpu-x86/openvino": measured(2.0, Drop(mean=0.01, upper=0.02, confidence=0.95)),
        },
        failed_programs={},
        quantized_operators=0,
        steps=(step(100, 50), step(50, 40)),
        layers=(),
        search=None,
        seconds={},
        versions={},
        seed=0,
        data={},
        machine={},
        random_weights=False,
        measured_at="2026-01-02T03:04:05+00:00",
    )
    build = Build.of("pruned", "b" * 64, record)
    assert (build.program, build.speedup(1), build.size_bytes) == ("openvino", 4.0, 200)
    assert (build.drop, build.drop_upper) == (0.01, 0.02)
    assert (build.eager_macs, build.macs) == (100, 40)


# ---------------------------------------------------------------------------- cases


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let recipes name data that no test reads."""
    monkeypatch.setenv("HEADRACE_DATA", "/nowhere")


@dataclass(frozen=True)
class DryBuilder(ReportingBuilder):
    """Builder that keeps the recipes of a case and builds none; later builds are better."""

    recipes: list[Recipe] = field(default_factory=list)

    def measure(self, title: str, recipe: Recipe) -> Build:
        self.recipes.append(recipe)
        count = len(self.recipes)
        return replace(
            BUILD,
            title=title,
            score=0.8 + 0.01 * count,
            latency_ms=dict.fromkeys(recipe.evaluation.batches, 2.0 / count),
            eager_ms=dict.fromkeys(recipe.evaluation.batches, 10.0),
        )


class SearchBuilder(DryBuilder):
    """Builder whose smallest technique loses too much accuracy."""

    def measure(self, title: str, recipe: Recipe) -> Build:
        drops = {"prune 0.2": (0.5, 100_000), "static_int8": (0.001, 1_500_000)}
        drop, size = drops.get(title, (0.0, 3_000_000))
        size = 1_000_000 if title.startswith("found") else size
        build = super().measure(title, recipe)
        return replace(build, drop=drop, drop_upper=drop + 0.001, size_bytes=size)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("key", list(CASES))
def test_case_builds_valid_recipes_of_different_names(key: str, quick: bool) -> None:
    builder = DryBuilder("store", quick)
    builds, goals = CASES[key].run(builder)
    assert len(builds) == len(builder.recipes) > 0
    assert len({recipe.name for recipe in builder.recipes}) == len(builder.recipes)
    assert all(recipe.name.startswith("benchmark-") for recipe in builder.recipes)
    if key != "resnet56-longer":  # a yardstick
        assert goals
    if key != "resnet20-search":  # the search uses the gate's budget
        assert all(recipe.gate.min_speedup is None for recipe in builder.recipes)


def test_teacher_and_plain_training_have_equal_length() -> None:
    builder = DryBuilder("store")
    CASES["resnet20-distilled-scratch"].run(builder)
    teacher, alone, taught = builder.recipes
    assert alone.steps[0].kind == "train"
    assert taught.steps[0].kind == "distill"
    assert taught.steps[0].teacher is not None
    assert taught.steps[0].teacher.artifact == teacher.name
    for name in ("epochs", "batch_size", "learning_rate", "optimizer", "augmentation", "precision"):
        assert getattr(alone.steps[0], name) == getattr(taught.steps[0], name)
    assert alone.model == taught.model
    assert alone.model.weights is None
    assert alone.data == taught.data


def test_search_is_compared_with_techniques_in_budget() -> None:
    builder = SearchBuilder("store")
    builds, goals = resnet20_search(builder)
    assert [build.title for build in builds] == [
        "found by the search",
        "compiled, nothing else",
        "static_int8",
        "prune 0.1",
        "prune 0.15",
        "prune 0.2",
    ]
    assert goals[0].measured == pytest.approx(1.5)
    assert goals[0].met
    assert "4 techniques" in goals[0].claim
    assert (goals[1].measured, goals[1].met) == (700.0, True)
    # Each technique begins with the training that the search begins with.
    assert len({recipe.steps[0] for recipe in builder.recipes}) == 1
    assert [recipe.search is None for recipe in builder.recipes] == [False] + [True] * 5


def test_gpu_case_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = DryBuilder("store")
    monkeypatch.setattr(node, "targets", lambda: ("cpu-x86",))
    with pytest.raises(BenchmarkError, match="needs an NVIDIA GPU"):
        CUDA_CASES["cuda-vit_b_16"].run(builder)
    monkeypatch.setattr(node, "targets", lambda: ("cuda-sm90", "cpu-x86"))
    CUDA_CASES["cuda-vit_b_16"].run(builder)
    assert [recipe.programs[0].target for recipe in builder.recipes] == ["cuda-sm90"] * 2
    assert [recipe.evaluation.batches for recipe in builder.recipes] == [(1, 64)] * 2


def test_quick_recipe_trains_for_two_updates() -> None:
    small = reduced(
        {
            "name": "m",
            "data": {"limit": None},
            "evaluation": {},
            "gate": {},
            "programs": [{"target": "cpu-x86"}, {"target": "cuda-sm90"}],
            "search": {"space": {"recovery": {"epochs": 5}}, "max_trials": 20},
            "steps": [
                {"kind": "prune", "recovery": {"epochs": 9}},
                {"kind": "distill", "epochs": 3, "teacher": {"artifact": "big"}},
            ],
        }
    )
    assert small["steps"][0]["recovery"] == {"epochs": 1, "updates": 2}
    assert small["search"]["space"]["recovery"] == {"epochs": 1, "updates": 2}
    assert small["search"]["max_trials"] == 3
    assert small["steps"][1]["teacher"]["artifact"] == "big-tiny"
    assert small["data"]["limit"] == 200
    assert [program.get("kinds") for program in small["programs"]] == [["exported"], None]
