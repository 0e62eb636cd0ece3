"""Gate: rejections and their sentences, and the programs that it admits."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.artifact.entries import Latency
from cluster.artifact.manifest import Agreement, Drop, Measurement
from cluster.compression.evaluation.evaluate import EvaluationResult
from cluster.compression.evaluation.gate import admit, check
from cluster.compression.evaluation.limits import LIMITS, most_bytes
from cluster.compression.record import CheckRecord
from cluster.config.gate import LIMIT_NAMES, Gate


def measured(
    drop: tuple[float, float] | None,
    ms: float,
    size: int = 1_000_000,
    later_ms: float = 0,
    alike: tuple[float, float] = (0.99, 0.98),
) -> Measurement:
    agreement = Agreement(measure="predictions", mean=alike[0], lower=alike[1], confidence=0.95)
    return Measurement(
        accuracy=0.9 - (drop[0] if drop else 0),
        accuracy_low=0.8,
        accuracy_high=0.95,
        samples=500,
        drop=Drop(mean=drop[0], upper=drop[1], confidence=0.95) if drop else None,
        agreement=agreement if drop else None,
        latency=(
            Latency(batch=1, p50_ms=ms, p99_ms=2 * ms),
            Latency(batch=8, p50_ms=later_ms or 4 * ms, p99_ms=9 * ms),
        ),
        size_bytes=size,
    )


def evaluation_of(**fields: Any) -> EvaluationResult:
    values = {"programs": {"cpu-x86/aoti": measured((0.01, 0.015), 2.0)}} | fields
    programs = values["programs"]
    usual = {
        "baselines": dict.fromkeys(programs, measured(None, 8.0, 4_000_000)),
        "operators": dict.fromkeys(programs, 5),
    }
    return EvaluationResult(**usual | values)


def only(program: Measurement) -> EvaluationResult:
    return evaluation_of(programs={"cpu-x86/aoti": program})


BUILD: dict[str, Any] = {"float_bytes": 4_000_000, "wants_quantized": True}


def judged(
    gate: dict[str, Any], evaluation: EvaluationResult, **fields: Any
) -> dict[str, CheckRecord]:
    checks = check(Gate.model_validate(gate), evaluation, **BUILD | fields)
    return {record.name: record for record in checks}


ALL = {"max_bytes": 5_000_000}


def test_table_has_one_entry_per_limit_of_recipe() -> None:
    assert tuple(LIMITS) == LIMIT_NAMES


def test_good_build_passes_every_limit() -> None:
    checks = judged(ALL, evaluation_of())
    assert list(checks) == [
        "loads",
        "max_accuracy_drop",
        "min_agreement",
        "min_speedup",
        "max_size_share",
        "max_bytes",
        "quantized_operators",
    ]
    assert all(record.passed for record in checks.values())
    assert "cpu-x86/aoti drops by 1.00 points on 500 samples, and with 95 % confidence drops " in (
        checks["max_accuracy_drop"].reason
    )
    assert "predicts the class that the baseline predicts for 99.00% on 500 samples" in (
        checks["min_agreement"].reason
    )
    assert "speed-up of 4.00×, at least the 1× of gate.min_speedup" in checks["min_speedup"].reason
    assert "0.250 of the 4.00 MB" in checks["max_size_share"].reason
    assert "1,000,000 bytes to load, within the 5,000,000" in checks["max_bytes"].reason


@pytest.mark.parametrize(
    ("gate", "evaluation", "name", "sentence"),
    [
        (
            {},
            only(measured((0.01, 0.01), ms=10.0)),
            "min_speedup",
            "Compressed, but slower: cpu-x86/aoti takes 10.0 ms at batch 1 and the baseline "
            "8.00 ms, a speed-up of 0.800×, under the 1× of gate.min_speedup",
        ),
        (
            {},
            only(measured((0.01, 0.01), ms=4.0, later_ms=78.0)),
            "min_speedup",
            "Compressed, but slower: cpu-x86/aoti takes 78.0 ms at batch 8 and the baseline "
            "32.0 ms, a speed-up of 0.410×, under the 1× of gate.min_speedup",
        ),
        (
            {},
            only(measured((0.0, 0.01), ms=1.0, alike=(0.88, 0.86))),
            "min_agreement",
            "the baseline predicts for 88.00% on 500 samples, and with 95 % confidence 0.8600 at "
            "least, under the 0.9 of gate.min_agreement; compress less",
        ),
        (
            {},
            only(measured((0.0, 0.01), ms=1.0, alike=(0.91, 0.89))),
            "min_agreement",
            "under the 0.9 of gate.min_agreement; measure more evaluation.samples",
        ),
        (
            {"min_speedup": 3},
            only(measured((0.01, 0.01), ms=4.0)),
            "min_speedup",
            "Compressed, but not fast enough: cpu-x86/aoti takes 4.00 ms",
        ),
        (
            {},
            only(measured((0.01, 0.01), ms=1.0, size=5_000_000)),
            "max_size_share",
            "Compressed, but bigger: cpu-x86/aoti is 5.00 MB to load, 1.25 of the 4.00 MB of the "
            "float32 weights, over the 1 of gate.max_size_share",
        ),
        (
            {"max_size_share": 0.3},
            only(measured((0.01, 0.01), ms=1.0, size=2_000_000)),
            "max_size_share",
            "Compressed, but not small enough",
        ),
        (
            {"max_bytes": 999_999},
            evaluation_of(),
            "max_bytes",
            "Too big: cpu-x86/aoti is 1,000,000 bytes to load, over the 999,999 of gate.max_bytes",
        ),
        (
            {},
            only(measured((0.03, 0.041), ms=1.0)),
            "max_accuracy_drop",
            "Accuracy drop's upper confidence bound over the budget: the score of cpu-x86/aoti "
            "drops by 3.00 points on 500 samples, and with 95 % confidence drops by 4.10 points "
            "at most, over the 2.00 of gate.max_accuracy_drop; compress less",
        ),
        (
            {},
            only(measured((-0.01, 0.03), ms=1.0)),
            "max_accuracy_drop",
            "rises by 1.00 points on 500 samples, and with 95 % confidence drops by 3.00 points "
            "at most, over the 2.00 of gate.max_accuracy_drop; measure more evaluation.samples",
        ),
    ],
)
def test_rejection_names_numbers_and_setting(
    gate: dict[str, Any], evaluation: EvaluationResult, name: str, sentence: str
) -> None:
    checks = judged(gate, evaluation)
    assert [record.name for record in checks.values() if not record.passed] == [name]
    reason = checks[name].reason
    assert sentence in reason
    assert f"`{name}: null`" in reason
    assert reason.endswith(".")
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ({"max_accuracy_drop": 0.015}, True),  # the bound counts, not the mean; equality passes
        ({"max_accuracy_drop": 0.0149}, False),
        ({"min_agreement": 0.98}, True),
        ({"min_agreement": 0.981}, False),
        ({"min_speedup": 4}, True),
        ({"min_speedup": 4.01}, False),
        ({"max_size_share": 0.25}, True),
        ({"max_size_share": 0.24}, False),
        ({"max_bytes": 1_000_000}, True),
        ({"max_bytes": 999_999}, False),
    ],
)
def test_value_equal_to_limit_passes(gate: dict[str, Any], passed: bool) -> None:
    (name,) = gate
    assert judged(gate, evaluation_of())[name].passed == passed


FALLEN = measured((0.68, 0.72), ms=8.0 / 0.41, size=5_000_000, alike=(0.24, 0.2))
"""Model from 0.91 to 0.23, 0.41 times the baseline's speed, larger, with other answers."""

DEFAULTED = ["max_accuracy_drop", "min_agreement", "min_speedup", "max_size_share"]


def test_gate_rejects_fallen_model_by_default() -> None:
    checks = judged({}, only(FALLEN))
    assert [name for name, record in checks.items() if not record.passed] == DEFAULTED


@pytest.mark.parametrize("limit", DEFAULTED)
def test_null_disables_only_its_limit(limit: str) -> None:
    checks = judged({limit: None}, only(FALLEN))
    rest = [name for name in DEFAULTED if name != limit]
    assert [name for name, record in checks.items() if not record.passed] == rest
    assert limit not in checks


def test_gate_checks_only_loading_if_all_limits_are_null() -> None:
    off = dict.fromkeys(DEFAULTED)
    assert list(judged(off, only(FALLEN), wants_quantized=False)) == ["loads"]


def test_checks_mark_limits_with_default_values() -> None:
    checks = judged({"max_accuracy_drop": 0.02, "max_bytes": 5_000_000}, evaluation_of())
    assert [name for name, record in checks.items() if record.default] == DEFAULTED[1:]


def test_speedup_limit_below_one_applies_to_each_batch_size() -> None:
    slow_later = only(measured((0.0, 0.01), ms=4.0, later_ms=35.0))
    assert not judged({}, slow_later)["min_speedup"].passed
    assert judged({"min_speedup": 0.9}, slow_later)["min_speedup"].passed
    assert not judged({"min_speedup": 0.95}, slow_later)["min_speedup"].passed


def test_program_with_low_agreement_is_excluded() -> None:
    other = measured((0.0, 0.01), 1.0, alike=(0.8, 0.78))
    evaluation = evaluation_of(programs={"cpu-x86/openvino": other, "cpu-x86/aoti": SLOWER})
    admission = admit(Gate(), evaluation, **BUILD)
    assert admission.fastest == {"cpu-x86": "aoti"}
    assert "gate.min_agreement" in admission.left_out["cpu-x86/openvino"]


def test_gate_rejects_zero_quantized_operators_if_requested() -> None:
    nothing = evaluation_of(operators={"cpu-x86/aoti": 0, "cpu-x86/eager": 5})
    refused = judged({}, nothing)["quantized_operators"]
    assert not refused.passed
    assert refused.reason.startswith("Quantized nothing: the recipe has a quantize step, but 0")
    assert "operators of cpu-x86/aoti" in refused.reason
    assert "scheme" in refused.reason
    assert "quantized_operators" not in judged({}, nothing, wants_quantized=False)


def test_gate_names_every_reason_if_no_program_of_target_works() -> None:
    evaluation = evaluation_of(
        failed={
            "cuda-sm90/aoti": "nvcc is missing:\n  " + "x" * 10_000,
            "cuda-sm90/eager": "CUDA is not available",
        }
    )
    checks = check(Gate(), evaluation, **BUILD)
    loads = {record.limit: record for record in checks if record.name == "loads"}
    assert loads["cpu-x86"].passed
    assert "cpu-x86/aoti loads in a fresh process" in loads["cpu-x86"].reason
    refused = loads["cuda-sm90"]
    assert not refused.passed
    assert refused.reason.startswith("Does not load on the target: no program for cuda-sm90")
    for part in ("aoti (nvcc is missing:", "eager (CUDA is not available)", "programs.kinds"):
        assert part in refused.reason
    assert len(refused.reason) < 600


def test_gate_rejects_build_without_programs() -> None:
    evaluation = evaluation_of(programs={})
    refused = judged({}, evaluation)["loads"]
    assert not refused.passed
    assert "no program was built" in refused.reason


def test_gate_checks_fastest_program_of_each_target() -> None:
    evaluation = evaluation_of(
        programs={
            "cpu-x86/aoti": measured((0.01, 0.01), 20.0),
            "cpu-x86/openvino": measured((0.01, 0.01), 2.0),
            "cuda-sm90/aoti": measured((0.01, 0.01), 9.0),
        },
        operators={"cpu-x86/openvino": 7, "cpu-x86/aoti": 5, "cuda-sm90/aoti": 4},
    )
    assert evaluation.fastest == {"cpu-x86": "openvino", "cuda-sm90": "aoti"}
    checks = check(Gate(), evaluation, **BUILD)
    speed = [record for record in checks if record.name == "min_speedup"]
    assert [record.passed for record in speed] == [True, False]
    assert "cpu-x86/openvino" in speed[0].reason
    assert "cuda-sm90/aoti" in speed[1].reason
    operators = [record.measured for record in checks if record.name == "quantized_operators"]
    assert operators == [7, 4]


def test_gate_compares_each_target_with_its_baseline() -> None:
    evaluation = evaluation_of(
        programs={
            "cpu-x86/aoti": measured((0.0, 0.0), 4.0),
            "cuda-sm90/eager": measured((0.0, 0.0), 2.0),
            "cuda-sm90/aoti": measured((0.0, 0.0), 1.0),
        },
        baselines={
            "cpu-x86/aoti": measured(None, 8.0),
            "cuda-sm90/eager": measured(None, 3.0),
            "cuda-sm90/aoti": measured(None, 0.5),
        },
    )
    speed = [
        record for record in check(Gate(), evaluation, **BUILD) if record.name == "min_speedup"
    ]
    assert [record.measured for record in speed] == [2.0, 0.5]  # not 8, beside the CPU's baseline
    assert [record.passed for record in speed] == [True, False]
    assert evaluation.baseline.at_batch(1).p50_ms == 8.0
    assert {t: m.at_batch(1).p50_ms for t, m in evaluation.target_baselines.items()} == {
        "cpu-x86": 8.0,
        "cuda-sm90": 0.5,
    }


def test_evaluation_without_programs_has_no_baseline() -> None:
    assert evaluation_of(programs={}).baseline is None


def test_refusal_for_accuracy_names_the_machines_part_in_it() -> None:
    cause = "this CPU (Z80) has no VNNI, so sums saturate; serve on CPUs with VNNI"
    evaluation = evaluation_of(
        programs={"cpu-x86/aoti": measured((0.05, 0.06), 1.0)}, causes={"cpu-x86/aoti": cause}
    )
    refused = judged({"max_accuracy_drop": 0.01}, evaluation)["max_accuracy_drop"]
    assert not refused.passed
    assert f"a likely cause is that {cause}" in refused.reason
    passed = judged({"max_accuracy_drop": 0.5}, evaluation)["max_accuracy_drop"]
    assert passed.passed
    assert "likely cause" not in passed.reason


def test_program_over_accuracy_budget_is_excluded() -> None:
    good, slower = measured((0.0, 0.01), 4.0), measured((0.0, 0.01), 6.0)
    lossy = measured((0.05, 0.06), 1.0)
    evaluation = evaluation_of(
        programs={"cpu-x86/eager": slower, "cpu-x86/aoti": good, "cpu-x86/openvino": lossy},
        failed={"cpu-x86/exported": "no"},
        static={"cpu-x86/openvino": (1,), "cpu-x86/aoti": (8,)},
    )
    admission = admit(Gate(), evaluation, **BUILD)
    assert admission.programs == {"cpu-x86/eager": slower, "cpu-x86/aoti": good}
    assert admission.fastest == {"cpu-x86": "aoti"}
    assert admission.static == {"cpu-x86/aoti": (8,)}
    assert admission.failed == {"cpu-x86/exported": "no"}
    assert list(admission.left_out) == ["cpu-x86/openvino"]
    assert "drops by 6.00 points at most, over the 2.00" in admission.left_out["cpu-x86/openvino"]
    checks = judged({}, admission)
    assert all(record.passed for record in checks.values())
    assert checks["loads"].reason.endswith(
        "the fastest of 2 programs that work; excluded, because they break a limit: openvino."
    )


SLOWER = measured((0.0, 0.01), 6.0, size=2_000_000)


@pytest.mark.parametrize(
    ("gate", "fastest", "setting"),
    [
        ({"max_accuracy_drop": 0.02}, measured((0.05, 0.06), 1.0), "max_accuracy_drop"),
        ({"max_size_share": 0.5}, measured((0.0, 0.01), 1.0, size=3_000_000), "max_size_share"),
        ({"max_bytes": 2_500_000}, measured((0.0, 0.01), 1.0, size=3_000_000), "max_bytes"),
        # The fastest over all batches need not be so at batch 1.
        ({"min_speedup": 1.2}, measured((0.0, 0.01), 7.0, later_ms=1.0), "min_speedup"),
    ],
)
def test_program_over_any_limit_is_excluded(
    gate: dict[str, Any], fastest: Measurement, setting: str
) -> None:
    evaluation = evaluation_of(programs={"cpu-x86/openvino": fastest, "cpu-x86/aoti": SLOWER})
    assert evaluation.fastest == {"cpu-x86": "openvino"}
    admission = admit(Gate.model_validate(gate), evaluation, **BUILD)
    assert admission.fastest == {"cpu-x86": "aoti"}
    assert f"gate.{setting}" in admission.left_out["cpu-x86/openvino"]
    assert all(record.passed for record in judged(gate, admission).values())


def test_excluded_program_names_all_exceeded_limits() -> None:
    bad = measured((0.05, 0.06), 9.0)
    evaluation = evaluation_of(programs={"cpu-x86/openvino": bad, "cpu-x86/aoti": SLOWER})
    why = admit(Gate(), evaluation, **BUILD).left_out["cpu-x86/openvino"]
    assert "gate.max_accuracy_drop" in why
    assert "gate.min_speedup" in why


def test_unquantized_program_is_excluded_only_if_requested() -> None:
    programs = {"cpu-x86/openvino": measured((0.0, 0.01), 1.0), "cpu-x86/aoti": SLOWER}
    evaluation = evaluation_of(
        programs=programs, operators={"cpu-x86/openvino": 0, "cpu-x86/aoti": 3}
    )
    assert admit(Gate(), evaluation, **BUILD).fastest == {"cpu-x86": "aoti"}
    assert admit(Gate(), evaluation, **BUILD | {"wants_quantized": False}) == evaluation


def test_admission_is_decided_for_each_target_separately() -> None:
    evaluation = evaluation_of(
        programs={"cpu-x86/aoti": SLOWER, "cuda-sm90/aoti": measured((0.5, 0.5), 1)}
    )
    admission = admit(Gate(), evaluation, **BUILD)
    assert admission == evaluation
    assert not all(record.passed for record in check(Gate(), admission, **BUILD))


def test_gate_rejects_if_all_programs_are_over_budget() -> None:
    lossy = measured((0.05, 0.06), 1.0)
    evaluation = only(lossy)
    assert admit(Gate(), evaluation, **BUILD) == evaluation
    assert not judged({}, evaluation)["max_accuracy_drop"].passed
    assert admit(Gate(max_accuracy_drop=None), evaluation, **BUILD) == evaluation


def test_admitted_program_is_fastest_over_all_batches() -> None:
    evaluation = evaluation_of(
        programs={
            "cpu-x86/aoti": measured((0.0, 0.0), 2.0, later_ms=50),
            "cpu-x86/eager": measured((0.0, 0.0), 3.0, later_ms=10),
            "cpu-x86/openvino": measured((0.9, 0.9), 1.0),
        },
    )
    assert evaluation.fastest == {"cpu-x86": "openvino"}
    assert admit(Gate(), evaluation, **BUILD).fastest == {"cpu-x86": "eager"}


def test_gate_raises_for_program_without_drop_or_agreement() -> None:
    with pytest.raises(ValueError, match="cpu-x86/aoti was measured without its drop"):
        judged({}, only(measured(None, 1.0)))
    with pytest.raises(ValueError, match="cpu-x86/aoti was measured without its agreement"):
        judged({"max_accuracy_drop": None}, only(measured(None, 1.0)))


@pytest.mark.parametrize(
    ("gate", "size"),
    [
        ({}, 4_000_000),
        ({"max_size_share": 0.25}, 1_000_000),
        ({"max_bytes": 999}, 999),
        ({"max_size_share": None, "max_bytes": 5_000_000}, 5_000_000),
        ({"max_size_share": None}, float("inf")),
    ],
)
def test_smallest_limit_on_size_bounds_program(gate: dict[str, Any], size: float) -> None:
    assert most_bytes(Gate.model_validate(gate), float_bytes=4_000_000) == size
