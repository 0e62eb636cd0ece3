"""Goals and tables of the compression benchmark; its cases, without building anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import compression, compression_cases
from benchmarks.compression_build import Builder, cut_down
from benchmarks.compression_cases import CASES, Case
from benchmarks.compression_cuda import CUDA_CASES
from benchmarks.compression_results import Built, CaseResult, Results
from benchmarks.compression_table import markdown
from benchmarks.errors import BenchmarkError
from benchmarks.goal import Goal
from cluster.artifact.entries import Latency
from cluster.artifact.manifest import Drop, Measurement, Score
from cluster.compression.record import BuildRecord, ModelSize, StepRecord
from cluster.config.recipe import Recipe
from cluster.program import node

MACHINE = {"cpu": "A CPU", "cores": 2, "date": "2026-01-02T03:04:05+00:00",
           "versions": {"torch": "2.14.1"}}  # fmt: skip


def built(title: str = "int8", ms: float = 2.0, score: float = 0.87, drop: float = 0.001) -> Built:
    return Built(
        title=title, artifact="a" * 64, metric="accuracy", score=score, low=score - 0.01,
        high=score + 0.01, samples=10000, drop=drop, drop_upper=drop + 0.001, program="openvino",
        latency_ms={1: ms, 8: 4 * ms}, eager_ms={1: 10.0, 8: 56.0}, size_bytes=900_000,
        float_bytes=3_400_000, macs=60_000_000, eager_macs=126_000_000, random_weights=False,
        seconds={"search": 700.0},
    )  # fmt: skip


def goal(measured: float, limit: float, at_least: bool = True) -> Goal:
    return Goal(claim="speed", measured=measured, limit=limit, at_least=at_least, unit="×")


def results(*goals: Goal, tiny: bool = False) -> Results:
    case = CaseResult(
        key="one", title="One case", builds=(built(),), goals=goals, tiny=tiny, seconds=1.0,
        date="2026-01-02T03:04:05+00:00",
    )  # fmt: skip
    return Results(machine=MACHINE, cases={"one": case})


# ---------------------------------------------------------------------------- table and goals


def test_goals_are_met_from_above_or_from_below() -> None:
    assert goal(6.0, 6.0).met
    assert not goal(5.9, 6.0).met
    assert goal(0.3, 0.3, at_least=False).met
    assert not goal(0.31, 0.3, at_least=False).met
    # 0.003 as a share is 0.30000000000000004 points somewhere on the way.
    assert goal((0.8703 - 0.8673) * 100, 0.3, at_least=False).met


def test_the_table_says_what_was_missed() -> None:
    found = results(goal(6.25, 6.0), goal(1.5, 1.6))
    text = markdown(found)
    assert "A CPU, 2 cores, 2026-01-02. torch 2.14.1." in text
    assert "| One case | speed | 6.25× | ≥ 6.00× | yes |" in text
    assert "| One case | speed | 1.50× | ≥ 1.60× | **no** |" in text
    assert "tiny" not in text
    assert found.missed == ["one: speed is 1.5×"]
    row = next(line for line in text.splitlines() if "| int8 |" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][2:] == [
        "accuracy 0.8700 (0.8600 to 0.8800)", "0.10 (0.20)", "openvino", "60.0", "0.90 of 3.40",
        "2.00", "5.00×", "8.00 (8)", "7.00×",
    ]  # fmt: skip


def test_a_tiny_run_has_no_verdict() -> None:
    found = results(goal(0.1, 6.0), tiny=True)
    assert "A tiny run" in markdown(found)
    assert "**no**" not in markdown(found)
    assert not found.missed


def test_a_build_is_read_from_the_report_of_its_fastest_program() -> None:
    def measured(p50_ms: float, drop: Drop | None) -> Measurement:
        return Measurement(
            accuracy=0.9, accuracy_low=0.8, accuracy_high=0.95, samples=100, drop=drop,
            latency=(Latency(batch=1, p50_ms=p50_ms, p99_ms=9.0),), size_bytes=int(p50_ms * 100),
        )  # fmt: skip

    score = Score(value=0.9, low=0.8, high=0.95, samples=100)

    def step(before: int, after: int) -> StepRecord:
        sizes = [
            ModelSize(parameters=1, nonzero=1, weight_bytes=4, macs=macs)
            for macs in (before, after)
        ]
        return StepRecord(
            kind="prune", title="prune", settings={}, seconds=1.0, before=score, after=score,
            size_before=sizes[0], size_after=sizes[1], details={},
        )  # fmt: skip

    record = BuildRecord(
        name="m", recipe={}, accepted=True, checks=(), metric="accuracy", target="cpu-x86",
        fastest="openvino", baseline=measured(8.0, None),
        programs={
            "cpu-x86/aoti": measured(4.0, None),
            "cpu-x86/openvino": measured(2.0, Drop(mean=0.01, upper=0.02, confidence=0.95)),
        },
        failed_programs={}, quantized_operators=0, steps=(step(100, 50), step(50, 40)), layers=(),
        search=None, seconds={}, versions={}, seed=0, data={}, machine={}, random_weights=False,
        measured_at="2026-01-02T03:04:05+00:00",
    )  # fmt: skip
    found = Built.of("pruned", "b" * 64, record)
    assert (found.program, found.speedup(1), found.size_bytes) == ("openvino", 4.0, 200)
    assert (found.drop, found.drop_upper) == (0.01, 0.02)
    assert (found.eager_macs, found.macs) == (100, 40)


# ---------------------------------------------------------------------------- cases


class Dry(Builder):
    """Keeps the recipes that a case would build; the better one of two is the later."""

    def build(self, title: str, recipe: Recipe) -> Built:
        made.append(recipe)
        found = built(title, ms=2.0 / len(made), score=0.8 + 0.01 * len(made))
        times = dict.fromkeys(recipe.evaluation.batches, 2.0 / len(made))
        eager = dict.fromkeys(recipe.evaluation.batches, 10.0)
        return found.model_copy(update={"latency_ms": times, "eager_ms": eager})


made: list[Recipe] = []


@pytest.fixture(autouse=True)
def _nothing_made() -> None:
    made.clear()


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("key", list(CASES))
def test_a_case_builds_valid_recipes_of_different_names(key: str, tiny: bool) -> None:
    builds, goals = CASES[key].run(Dry("store", tiny))
    assert len(builds) == len(made) > 0
    assert len({recipe.name for recipe in made}) == len(made)
    assert all(recipe.name.startswith("benchmark-") for recipe in made)
    if key != "resnet56-longer":  # a yardstick
        assert goals
    if key != "resnet20-search":  # the budget is what it searches by
        assert all(recipe.gate.min_speedup is None for recipe in made)


def test_teacher_and_plain_training_have_the_same_length() -> None:
    CASES["resnet20-distilled-scratch"].run(Dry("store"))
    teacher, alone, taught = made
    assert alone.steps[0].kind == "train"
    assert taught.steps[0].kind == "distill"
    assert taught.steps[0].teacher is not None
    assert taught.steps[0].teacher.artifact == teacher.name
    for name in ("epochs", "batch_size", "learning_rate", "optimizer", "augmentation", "precision"):
        assert getattr(alone.steps[0], name) == getattr(taught.steps[0], name)
    assert alone.model == taught.model
    assert alone.model.weights is None
    assert alone.data == taught.data


def test_the_search_is_compared_with_techniques_within_its_budget_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The smallest loses too much.
    drops = {"prune 0.2": (0.5, 100_000), "static_int8": (0.001, 1_500_000)}

    def build(self: Builder, title: str, recipe: Recipe) -> Built:
        made.append(recipe)
        drop, size = drops.get(title, (0.0, 3_000_000))
        found = title.startswith("found")
        return built(title, drop=drop).model_copy(
            update={"size_bytes": 1_000_000 if found else size}
        )

    monkeypatch.setattr(Builder, "build", build)
    builds, goals = compression_cases.resnet20_search(Builder("store"))
    titles = [each.title for each in builds]
    assert titles == ["found by the search", "compiled, nothing else", "static_int8",
                      "prune 0.1", "prune 0.15", "prune 0.2"]  # fmt: skip
    assert goals[0].measured == pytest.approx(1.5)
    assert goals[0].met
    assert "4 techniques" in goals[0].claim
    assert (goals[1].measured, goals[1].met) == (700.0, True)
    # Each alone begins with the training that the search begins with.
    assert len({recipe.steps[0] for recipe in made}) == 1
    assert [recipe.search is None for recipe in made] == [False] + [True] * 5


def test_a_gpu_case_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "targets", lambda: ("cpu-x86",))
    with pytest.raises(BenchmarkError, match="needs an NVIDIA GPU"):
        CUDA_CASES["cuda-vit_b_16"].run(Dry("store"))
    monkeypatch.setattr(node, "targets", lambda: ("cuda-sm90", "cpu-x86"))
    CUDA_CASES["cuda-vit_b_16"].run(Dry("store"))
    assert [recipe.programs[0].target for recipe in made] == ["cuda-sm90"] * 2
    assert [recipe.evaluation.batches for recipe in made] == [(1, 64)] * 2


def test_a_tiny_recipe_trains_nothing_long() -> None:
    found = cut_down(
        {
            "name": "m", "data": {"limit": None}, "evaluation": {}, "gate": {},
            "programs": [{"target": "cpu-x86"}, {"target": "cuda-sm90"}],
            "search": {"space": {"recovery": {"epochs": 5}}, "max_trials": 20},
            "steps": [{"kind": "prune", "recovery": {"epochs": 9}},
                      {"kind": "distill", "epochs": 3, "teacher": {"artifact": "big"}}],
        }
    )  # fmt: skip
    assert found["steps"][0]["recovery"] == {"epochs": 1, "updates": 2}
    assert found["search"]["space"]["recovery"] == {"epochs": 1, "updates": 2}
    assert found["search"]["max_trials"] == 3
    assert found["steps"][1]["teacher"]["artifact"] == "big-tiny"
    assert found["data"]["limit"] == 200
    assert [each.get("kinds") for each in found["programs"]] == [["exported"], None]


# ---------------------------------------------------------------------------- the command


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, dict[str, object], list[str]]]:
    """Runs the command with two made-up cases: (status, cases in the file, cases that ran)."""

    def run(*arguments: str, fails: bool = False) -> tuple[int, dict[str, object], list[str]]:
        ran: list[str] = []

        def case(key: str, works: bool) -> Case:
            def measured(_: Builder) -> tuple[tuple[Built, ...], tuple[Goal, ...]]:
                ran.append(key)
                if not works:
                    raise BenchmarkError("no luck")
                return (built(),), (goal(7.0, 6.0),)

            return Case(key, key, 1, measured)

        cases = {"first": case("first", not fails), "second": case("second", True)}
        monkeypatch.setattr(compression, "EVERYWHERE", cases)
        monkeypatch.setattr(compression, "CASES", cases)
        file = tmp_path / "compression.json"
        monkeypatch.setattr(sys, "argv", ["compression", "--json", str(file), *arguments])
        status = compression.main()
        found = json.loads(file.read_text())["cases"] if file.exists() else {}
        return status, found, ran

    return run


def test_a_case_that_is_done_is_not_run_again(command: Callable) -> None:
    status, found, ran = command(fails=True)
    assert (status, list(found), ran) == (1, ["second"], ["first", "second"])
    status, found, ran = command()
    assert (status, sorted(found), ran) == (0, ["first", "second"], ["first"])
    assert command("--again")[2] == ["first", "second"]


def test_tiny_and_full_runs_are_kept_apart(
    command: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    command("--tiny")
    assert command()[0] == 1
    assert "holds tiny runs; name another with --json" in capsys.readouterr().err
