"""Table of the terminal: figures of every program, and the gate's sentences."""

from __future__ import annotations

import pytest

from cluster.artifact.manifest import Agreement
from cluster.compression.evaluation.evaluate import EvaluationResult
from cluster.compression.record import BuildRecord
from cluster.compression.report.baseline import baseline_name, baseline_note
from cluster.compression.report.table import gate_lines, header, limits, row, table_of
from cluster.config.gate import Gate
from cluster.text_table import table


def evaluation_of(record: BuildRecord) -> EvaluationResult:
    return EvaluationResult(
        programs=record.programs,
        baselines=dict.fromkeys(record.programs, record.baseline),
        failed={"cpu-x86/exported": "it cannot\n be saved " + "x" * 500},
        left_out={"cpu-x86/openvino-2": "Too big:\n " + "x" * 500},
    )


def test_table_shows_all_programs_beside_baseline(record: BuildRecord) -> None:
    lines = table_of("resnet56", evaluation_of(record), {}).splitlines()
    assert lines[0].split()[0] == "resnet56"
    assert "batch 1 p50/p99" in lines[0]
    assert "batch 32 p50/p99" in lines[0]
    assert "batch 8" not in lines[0]
    assert [line.split("  ")[0] for line in lines[2:6]] == [
        "baseline (eager float32)",
        "cpu-x86/aoti",
        "cpu-x86/openvino (fastest)",
        "cpu-x86/eager",
    ]
    winner = lines[4]
    for part in (
        "0.8470 (0.831–0.863)",
        "0.0055 (0.0104)",
        "1.36 / 1.66 ms",
        "25.00 / 30.50 ms",
        "1311",
        "552 kB",
        "6.91×",
    ):
        assert part in winner
    assert lines[2].endswith("1.00×")
    assert lines[6].startswith("left out cpu-x86/openvino-2, which works: Too big:")
    assert lines[7].startswith("no cpu-x86/exported: it cannot be saved")
    assert all(len(line) < 260 for line in lines[6:])
    assert len(lines) == 8


def test_table_shows_programs_beside_baseline_of_target(record: BuildRecord) -> None:
    cpu, gpu = (
        record.baseline,
        record.programs["cpu-x86/openvino"].model_copy(update={"drop": None}),
    )
    program = record.programs["cpu-x86/aoti"]
    evaluation = EvaluationResult(
        programs={"cpu-x86/aoti": program, "cuda-sm90/aoti": program},
        baselines={"cpu-x86/aoti": cpu, "cuda-sm90/aoti": gpu},
    )
    _, _, *rows = table_of("resnet56", evaluation, {"steps": [{"kind": "train"}]}).splitlines()
    assert [row.split("  ")[0] for row in rows] == [
        "baseline (trained model, eager float32)",
        "baseline (trained model, eager float32) on cuda-sm90",
        "cpu-x86/aoti (fastest)",
        "cuda-sm90/aoti (fastest)",
    ]
    assert [row.split()[-1] for row in rows] == ["1.00×", "1.00×", "4.48×", "0.648×"]


TRAIN, INT8 = {"kind": "train"}, {"kind": "quantize"}
TEACHER = {"kind": "distill", "teacher": {"model": {"source": "torchvision:resnet18"}}}


@pytest.mark.parametrize(
    ("steps", "model"),
    [
        ([INT8], ""),
        ([TRAIN, TRAIN, INT8], "trained model, "),
        ([INT8, TRAIN], ""),
        ([TRAIN, TEACHER, INT8], "teacher, "),
        ([TRAIN, {"kind": "distill", "teacher": {"artifact": "a", "model": None}}], "trained mo"),
        ([TRAIN, INT8, TEACHER], "trained model, "),
        (None, ""),
        ([7, "train"], ""),
        ([{"kind": "distill", "teacher": "x"}], ""),
    ],
)
def test_baseline_name_says_which_model_it_is(steps: object, model: str) -> None:
    assert baseline_name({"steps": steps}).startswith(f"baseline ({model or 'eager'}")
    assert bool(baseline_note({"steps": steps})) == bool(model)


def test_table_has_one_column_per_batch_size(record: BuildRecord) -> None:
    single = record.baseline.model_copy(update={"latency": record.baseline.latency[:1]})
    names, cells = header(single), row("b", single, single)
    assert len(names) == len(cells)
    assert sum("p50" in name for name in names) == 1


def test_columns_have_width_of_widest_cell() -> None:
    assert table([("a", "long cell"), ("bb", "x")], ("", "h")).splitlines() == [
        "    h",
        "──  ─────────",
        "a   long cell",
        "bb  x",
    ]


def test_gate_prints_sentences(record: BuildRecord) -> None:
    refused = record.checks[2].model_copy(update={"passed": False, "default": True})
    lines = gate_lines([record.checks[0], refused])
    assert lines == [
        f"gate     passed  loads: {record.checks[0].reason}",
        f"gate     FAILED  min_speedup (default): {refused.reason}",
    ]


def test_limits_share_one_line_with_marked_defaults() -> None:
    line = limits(Gate(max_accuracy_drop=0.01, min_speedup=None).model_dump(mode="json"))
    assert line.startswith(
        "max_accuracy_drop 0.01, min_agreement 0.9 (default), min_speedup off, "
        "max_size_share 1.0 (default), max_bytes off"
    )


@pytest.mark.parametrize("defaults", [None, 7, "min_speedup", [["x"]]])
def test_limits_of_foreign_manifest_are_shown_verbatim(defaults: object) -> None:
    assert limits({"min_speedup": {"a": 1}, "defaults": defaults}) == "min_speedup {'a': 1}"


def test_table_shows_agreement_and_its_bound(record: BuildRecord) -> None:
    program = record.programs["cpu-x86/aoti"]
    alike = Agreement(measure="predictions", mean=0.99, lower=0.981, confidence=0.95)
    cells = row("p", program.model_copy(update={"agreement": alike}), record.baseline)
    assert cells[header(program).index("agreement (bound)")] == "0.9900 (0.9810)"
