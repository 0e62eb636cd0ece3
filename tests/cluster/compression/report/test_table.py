"""The terminal's table holds the figures of every program, and the gate's sentences."""

from __future__ import annotations

from cluster.compression.evaluation.evaluate import Evaluated
from cluster.compression.record import BuildRecord
from cluster.compression.report.table import gate_lines, header, row, table, table_of


def evaluated(record: BuildRecord) -> Evaluated:
    return Evaluated(
        baseline=record.baseline,
        programs=record.programs,
        failed={"cpu-x86/exported": "it cannot\n be saved " + "x" * 500},
        fastest={"cpu-x86": "openvino"},
        static={},
    )


def test_the_table_shows_all_programs_beside_the_baseline(record: BuildRecord) -> None:
    lines = table_of("resnet56", evaluated(record)).splitlines()
    assert lines[0].split()[0] == "resnet56"
    assert "batch 1 p50/p99" in lines[0]
    assert "batch 32 p50/p99" in lines[0]
    assert "batch 8" not in lines[0]
    assert [line.split("  ")[0] for line in lines[2:6]] == [
        "baseline (eager float32)", "cpu-x86/aoti", "cpu-x86/openvino (fastest)", "cpu-x86/eager",
    ]  # fmt: skip
    winner = lines[4]
    for part in (
        "0.8470 (0.831–0.863)", "0.0055 (0.0104)", "1.36 / 1.66 ms", "25.00 / 30.50 ms", "1311",
        "552 kB", "6.91×",
    ):  # fmt: skip
        assert part in winner
    assert lines[2].endswith("1.00×")
    assert lines[6].startswith("no cpu-x86/exported: it cannot be saved")
    assert len(lines[6]) < 250
    assert len(lines) == 7


def test_one_batch_size_has_one_column(record: BuildRecord) -> None:
    single = record.baseline.model_copy(update={"latency": record.baseline.latency[:1]})
    names, cells = header(single), row("b", single, single)
    assert len(names) == len(cells)
    assert sum("p50" in name for name in names) == 1


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table([("a", "long cell"), ("bb", "x")], ("", "h")).splitlines() == [
        "    h",
        "──  ─────────",
        "a   long cell",
        "bb  x",
    ]


def test_the_gate_speaks_in_sentences(record: BuildRecord) -> None:
    refused = record.checks[2].model_copy(update={"passed": False})
    lines = gate_lines([record.checks[0], refused])
    assert lines == [
        f"gate     passed  loads: {record.checks[0].reason}",
        f"gate     FAILED  min_speedup: {refused.reason}",
    ]
