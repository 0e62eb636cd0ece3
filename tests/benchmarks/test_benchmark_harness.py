"""Harness of the benchmarks: rounds, medians, goals, JSON and the command line."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import benchmark_runs as runs
import pytest

from benchmarks.harness import rounds
from benchmarks.harness.case import ROUNDS, Benchmark, Case, Context, PreparedCase, seconds
from benchmarks.harness.command import main
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.goals import Goal, at_least, at_most
from benchmarks.harness.results import CaseResult, Medians, Reading, Run, read, resumed
from benchmarks.harness.table import figures, report
from cluster.errors import ConfigError

# ---------------------------------------------------------------------------- rounds


def turn(name: str, order: list[str]) -> Callable[[], list[Reading]]:
    def measure() -> list[Reading]:
        order.append(name)
        return [Reading(subject=name, figures={"p50 ms": float(len(order))})]

    return measure


def silent(line: str) -> None:
    """Print nothing."""


def test_each_round_begins_with_another_turn() -> None:
    order: list[str] = []
    measured, failures = rounds.measure({n: turn(n, order) for n in "abc"}, 3, (), silent)
    assert order == list("abcbcacab")
    assert [(m.subject, m.number) for m in measured[:4]] == [("a", 1), ("b", 1), ("c", 1), ("b", 2)]
    assert failures == {}


def test_failed_optional_turn_is_skipped_afterwards() -> None:
    order: list[str] = []

    def failing() -> list[Reading]:
        order.append("peer")
        raise BenchmarkError("not installed")

    turns = {"ours": turn("ours", order), "peer": failing}
    measured, failures = rounds.measure(turns, 3, {"peer"}, silent)
    assert order.count("peer") == 1
    assert failures == {"peer": "not installed"}
    assert len(measured) == 3


def test_failed_required_turn_ends_the_rounds() -> None:
    def failing() -> list[Reading]:
        raise BenchmarkError("the server ended")

    with pytest.raises(BenchmarkError, match="the server ended"):
        rounds.measure({"ours": failing}, 3, (), silent)


# ---------------------------------------------------------------------------- results


def case(**fields: object) -> CaseResult:
    measured = runs.measurements(
        "one",
        {"p50 ms": 1.0, "errors": 0.0},
        {"p50 ms": 9.0, "errors": 2.0},
        {"p50 ms": 2.0, "errors": 0.0},
    )
    return CaseResult.model_validate(
        {"key": "case", "title": "A case", "rounds": measured, **fields}
    )


def test_medians_hide_no_error() -> None:
    assert case().medians == {"one": {"p50 ms": 2.0, "errors": 2.0}}
    assert runs.run("bench", case()).errors == 2


def test_goals_compare_at_three_decimals() -> None:
    assert at_least("speed", 6.0, 6.0).met
    assert not at_least("speed", 5.9, 6.0).met
    assert at_most("drop", 0.3, 0.3).met
    assert not at_most("drop", 0.31, 0.3).met
    # The difference as a float is 0.30000000000000004.
    assert at_most("drop", (0.8703 - 0.8673) * 100, 0.3).met


@pytest.mark.parametrize(
    ("goal", "shown", "limit"),
    [
        (at_least("speed", 6.254, 6.0), "6.25×", "≥ 6.00×"),
        (at_most("time", 480.4, 1200, " s"), "480 s", "≤ 1200 s"),
        (at_least("cosine", 0.9977, 0.99, ""), "0.998", "≥ 0.990"),
    ],
)
def test_goals_show_their_unit(goal: Goal, shown: str, limit: str) -> None:
    assert (goal.shown, goal.shown_limit) == (shown, limit)


def test_report_names_missed_goals_and_notes() -> None:
    goals = (at_least("speed", 6.25, 6.0), at_least("memory", 1.5, 1.6))
    run = runs.run("bench", case(goals=goals, notes=("A note.",)))
    text = report(run, "One thread.", map(figures, run.cases))
    assert (
        "One thread. A CPU, 2 cores, 2026-01-02. Medians of 3 rounds of 8 s. torch 2.14.1." in text
    )
    assert "| A case | speed | 6.25× | ≥ 6.00× | met |" in text
    assert "| A case | memory | 1.50× | ≥ 1.60× | **missed** |" in text
    assert "**A case**. A note." in text
    assert "| one | 2.00 | 2.00 |" in text
    assert run.missed == ["case: memory is 1.50×, expected ≥ 1.60×"]


def test_quick_run_misses_no_goal() -> None:
    run = runs.run("bench", case(goals=(at_least("speed", 0.1, 6.0),)), quick=True, rounds=1)
    text = report(run, "", ())
    assert run.missed == []
    assert "missed" not in text
    assert text.startswith("**A quick run")


def test_report_names_missing_measurements() -> None:
    run = runs.run("bench", case(failures={"peer": "not installed\nin detail"}))
    text = report(run.model_copy(update={"failures": {"other": "no GPU"}}), "", ())
    assert text.endswith("Not measured: other: no GPU\n\nNot measured: case, peer: not installed\n")


def test_json_keeps_the_whole_run(tmp_path: Path) -> None:
    run = runs.run("bench", case(goals=(at_least("speed", 6.25, 6.0),), facts={"artifact": "a"}))
    run.write(tmp_path / "run.json")
    assert read(tmp_path / "run.json") == run


def test_resume_refuses_another_cpu_or_settings(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    fresh = runs.run("bench")
    assert resumed(file, fresh) is fresh
    earlier = runs.run("bench", case()).model_copy(update={"failures": {"other": "no GPU"}})
    earlier.write(file)
    assert resumed(file, fresh) == earlier.model_copy(update={"failures": {}})
    with pytest.raises(BenchmarkError, match=r"'rounds': 3.*'rounds': 1.*name another file"):
        resumed(file, runs.run("bench", rounds=1))
    other_cpu = fresh.model_copy(update={"machine": {**runs.MACHINE, "cpu": "Another"}})
    with pytest.raises(BenchmarkError, match=r"A CPU.*Another"):
        resumed(file, other_cpu)
    file.write_text('{"cases": 1}')
    with pytest.raises(BenchmarkError, match="is not a benchmark's result"):
        resumed(file, fresh)


# ---------------------------------------------------------------------------- command


class Bench:
    """Benchmark of two cases that records which of them run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failing: set[str] = set()
        self.speed = 7.0
        self.contexts: list[Context] = []

    def main(self, *arguments: str) -> int:
        """Run the command; return its exit status."""
        self.ran.clear()
        return main(self.benchmark, arguments)

    @property
    def benchmark(self) -> Benchmark:
        return Benchmark(
            name="bench",
            cases={key: Case(key, self._prepare(key)) for key in ("first", "second", "gpu")},
            markdown=lambda run: report(run, "", map(figures, run.cases)),
            packages=("numpy",),
            settings=(ROUNDS, seconds(8)),
            on_request=frozenset({"gpu"}),
            has_quick=True,
        )

    def _prepare(self, key: str) -> Callable[[Context], PreparedCase]:
        def prepare(context: Context) -> PreparedCase:
            self.ran.append(key)
            self.contexts.append(context)
            if key in self.failing:
                raise ConfigError("no such recipe")
            reading = Reading(subject="one", figures={"speed": self.speed})
            return PreparedCase({"one": lambda: [reading]}, self._goals)

        return prepare

    @staticmethod
    def _goals(medians: Medians) -> Sequence[Goal]:
        return (at_least("speed", medians["one"]["speed"], 6.0),)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    monkeypatch.setenv("HEADRACE_STORE", str(tmp_path / "store"))  # the command sets it
    handler = signal.getsignal(signal.SIGTERM)  # and this
    yield Bench()
    signal.signal(signal.SIGTERM, handler)


def test_command_continues_where_it_stopped(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    bench.failing = {"first"}
    assert bench.main("--json", str(file)) == 1
    assert bench.ran == ["first", "second"]
    assert [case.key for case in read(file).cases] == ["second"]
    assert read(file).failures == {"first": "no such recipe"}
    bench.failing = set()
    assert bench.main("--json", str(file)) == 0
    assert bench.ran == ["first"]
    assert read(file).failures == {}
    assert bench.main("--json", str(file), "--again") == 0
    assert bench.ran == ["first", "second"]


def test_command_fails_when_a_goal_is_missed(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.speed = 5.0
    assert bench.main("--only", "first") == 1
    assert "missed: first: speed is 5.00×, expected ≥ 6.00×" in capsys.readouterr().err


def test_command_takes_settings_and_defaults(bench: Bench, tmp_path: Path) -> None:
    bench.main("--only", "gpu", "--seconds", "2", "--store", str(tmp_path / "other"))
    assert bench.ran == ["gpu"]
    assert bench.contexts[-1].settings == {"quick": False, "rounds": 3, "seconds": 2}
    assert bench.contexts[-1].store == str(tmp_path / "other")
    bench.main("--only", "first", "--quick")
    assert bench.contexts[-1].settings == {"quick": True, "rounds": 1, "seconds": 1}


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_command_refuses_rounds_below_one(
    bench: Bench, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main("--rounds", value)
    assert "is not an integer of 1 or more" in capsys.readouterr().err


def test_quick_results_are_kept_apart(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "bench.json")
    bench.main("--quick", "--json", file)
    assert bench.main("--json", file) == 1
    assert "name another file with --json" in capsys.readouterr().err


def test_markdown_is_written_as_it_is_printed(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.main("--only", "first", "--markdown", str(tmp_path / "bench.md"))
    text = (tmp_path / "bench.md").read_text()
    assert "| one | 7.00 |" in text
    assert text in capsys.readouterr().out


def test_run_replaces_a_repeated_case() -> None:
    run: Run = runs.run("bench", case(), case(key="other"))
    repeated = run.with_case(case(title="again"))
    assert [result.title for result in repeated.cases] == ["again", "A case"]
