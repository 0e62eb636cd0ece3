"""Gate: limits that a build must keep to become servable. Pure.

    Evaluated ─ admitted ─→ without programs that break a limit, if others keep all limits
              ─ check ─→ one CheckRecord per limit and target; all must pass

Every reason is one sentence with the numbers and, for a refusal, the recipe's setting to change.
A default limit is marked as such.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from cluster.artifact.manifest import Agreement, Drop, Measurement
from cluster.compression.evaluation.evaluate import Evaluated
from cluster.compression.figures import figure, milliseconds, size, times
from cluster.compression.record import CheckRecord
from cluster.config.recipe import Gate

REASON_LENGTH = 300
"""Maximum length of a quoted reason for a program's failure."""

_AGREEMENT = {
    "predictions": "predicts the class that the baseline predicts for {mean:.2%}",
    "cosine": "has a mean cosine similarity to the baseline of {mean:.4f}",
    "ranking": "ranks like the baseline with a mean correlation of {mean:.4f}",
}
"""Measure → phrase for a program, with the mean."""

_ROUNDING = 1e-9
"""Tolerance of a limit: shares are counts over the same samples, and may be rounded."""


def check(
    gate: Gate, evaluated: Evaluated, *, float_bytes: int, wants_quantized: bool
) -> tuple[CheckRecord, ...]:
    """Check every limit of the gate, for the fastest program of each target.

    ``float_bytes``: bytes of the float32 weights before compression. ``wants_quantized``: the
    recipe has a quantize step. The build is accepted if all checks pass.
    """
    checks: list[CheckRecord] = []
    for target in _targets(evaluated):
        kind = evaluated.fastest.get(target)
        checks.append(_loads(target, kind, evaluated))
        if kind is not None:
            checks += _limits(gate, f"{target}/{kind}", evaluated, float_bytes, wants_quantized)
    return tuple(checks) or (_no_program(),)


def admitted(
    gate: Gate, evaluated: Evaluated, *, float_bytes: int, wants_quantized: bool
) -> Evaluated:
    """Return ``evaluated`` without programs that break a limit, if their target has better ones.

    A compiler that quantizes by its own means may lose accuracy that another one keeps, and the
    fastest program may be too large. Then another program serves the target, and the build need
    not fail. ``left_out`` has the excluded programs with the reasons. The other arguments are those
    of :func:`check`.
    """
    broken = {
        key: " ".join(
            check.reason
            for check in _limits(gate, key, evaluated, float_bytes, wants_quantized)
            if not check.passed
        )
        for key in evaluated.programs
    }
    served = {_target(key) for key, reasons in broken.items() if not reasons}
    excluded = {key: why for key, why in broken.items() if why and _target(key) in served}
    programs = {k: program for k, program in evaluated.programs.items() if k not in excluded}
    static = {k: batches for k, batches in evaluated.static.items() if k not in excluded}
    return evaluated.model_copy(
        update={
            "programs": programs,
            "left_out": {**evaluated.left_out, **excluded},
            "static": static,
        }
    )


def _limits(
    gate: Gate, key: str, evaluated: Evaluated, float_bytes: int, wants_quantized: bool
) -> Iterator[CheckRecord]:
    measured = evaluated.programs[key]
    checks = []
    if gate.max_accuracy_drop is not None:
        checks.append(_accuracy_drop(gate.max_accuracy_drop, key, measured))
    if gate.min_agreement is not None:
        checks.append(_agreement(gate.min_agreement, key, measured))
    if gate.min_speedup is not None:
        checks.append(_speedup(gate.min_speedup, key, measured, evaluated.baselines[key]))
    if gate.max_size_share is not None:
        checks.append(_size_share(gate.max_size_share, key, measured, float_bytes))
    if gate.max_bytes is not None:
        checks.append(_bytes(gate.max_bytes, key, measured))
    for check in checks:
        yield check.model_copy(update={"default": check.name in gate.defaults})
    if wants_quantized:
        yield _quantized(key, evaluated.operators.get(key, 0))


def _loads(target: str, kind: str | None, evaluated: Evaluated) -> CheckRecord:
    failed = [
        f"{key.removeprefix(f'{target}/')} ({textwrap.shorten(why, REASON_LENGTH)})"
        for key, why in evaluated.failed.items()
        if _target(key) == target
    ]
    if kind is None:
        reason = (
            f"Does not load on the target: no program for {target} works: "
            f"{'; '.join(failed) or 'none was built'}; change its programs.kinds, or build on a "
            f"machine that has {target}."
        )
    else:
        working = sum(_target(key) == target for key in evaluated.programs)
        excluded = ", ".join(
            key.removeprefix(f"{target}/") for key in evaluated.left_out if _target(key) == target
        )
        reason = (
            f"{target}/{kind} loads in a fresh process and is the fastest of {working} "
            f"{'program' if working == 1 else 'programs'} that work"
            f"{f'; excluded, because they break a limit: {excluded}' if excluded else ''}."
        )
    return CheckRecord(
        name="loads", limit=target, measured=kind or "none", passed=kind is not None, reason=reason
    )


def _no_program() -> CheckRecord:
    reason = "Does not load on the target: no program was built; name one in programs.kinds."
    return CheckRecord(name="loads", limit="any", measured="none", passed=False, reason=reason)


def _accuracy_drop(limit: float, key: str, measured: Measurement) -> CheckRecord:
    drop = _drop_of(key, measured)
    passed = drop.upper <= limit + _ROUNDING
    finding = (
        f"the score of {key} {_change(drop.mean)} on {measured.samples} samples, and with "
        f"{drop.confidence * 100:g} % confidence {_change(drop.upper)} at "
        f"{'most' if drop.upper >= 0 else 'least'}"
    )
    if passed:
        reason = f"{finding}, within the {limit * 100:.2f} of gate.max_accuracy_drop."
    else:
        narrow = drop.mean <= limit
        advice = "measure more evaluation.samples, " if narrow else ""
        reason = (
            f"Accuracy drop's upper confidence bound over the budget: {finding}, over the "
            f"{limit * 100:.2f} of gate.max_accuracy_drop; {advice}compress less in steps, add "
            f"recovery training, {_or_disable('raise', 'max_accuracy_drop')}."
        )
    return _record("max_accuracy_drop", limit, drop.upper, passed, reason)


def _agreement(limit: float, key: str, measured: Measurement) -> CheckRecord:
    alike = _agreement_of(key, measured)
    passed = alike.lower >= limit - _ROUNDING
    finding = (
        f"{key} {_AGREEMENT[alike.measure].format(mean=alike.mean)} on {measured.samples} samples, "
        f"and with {alike.confidence * 100:g} % confidence {alike.lower:.4f} at least"
    )
    if passed:
        reason = f"{finding}, not under the {limit:g} of gate.min_agreement."
    else:
        advice = "measure more evaluation.samples, " if alike.mean >= limit else ""
        reason = (
            f"Agreement's lower confidence bound under the limit: {finding}, under the {limit:g} "
            f"of gate.min_agreement; {advice}compress less in steps, "
            f"{_or_disable('lower', 'min_agreement')}."
        )
    return _record("min_agreement", limit, alike.lower, passed, reason)


def _speedup(limit: float, key: str, measured: Measurement, baseline: Measurement) -> CheckRecord:
    """Check batch 1 and, if that is fast enough, the slowest of the other batch sizes.

    Batch 1 must reach ``limit``. The others must not be slower than the baseline, or than a
    ``limit`` below 1 allows.
    """
    speedups = {
        entry.batch: baseline.at_batch(entry.batch).p50_ms / entry.p50_ms
        for entry in measured.latency
    }
    slower = [batch for batch, speedup in speedups.items() if speedup < min(limit, 1.0)]
    batch, least = 1, limit
    if speedups[1] >= limit and slower:
        batch, least = min(slower, key=speedups.__getitem__), min(limit, 1.0)
    speedup = speedups[batch]
    before, after = baseline.at_batch(batch).p50_ms, measured.at_batch(batch).p50_ms
    finding = (
        f"{key} takes {milliseconds(after)} at batch {batch} and the baseline "
        f"{milliseconds(before)}, a speed-up of {times(speedup)}"
    )
    passed = speedup >= least
    if passed:
        reason = f"{finding}, at least the {limit:g}× of gate.min_speedup."
    else:
        kind = "Compressed, but slower" if speedup < 1 else "Compressed, but not fast enough"
        reason = (
            f"{kind}: {finding}, under the {least:g}× of gate.min_speedup; try another scheme or "
            "structured pruning in steps, more programs.kinds, "
            f"{_or_disable('lower', 'min_speedup')}."
        )
    return _record("min_speedup", least, speedup, passed, reason)


def _size_share(limit: float, key: str, measured: Measurement, float_bytes: int) -> CheckRecord:
    share = measured.size_bytes / float_bytes
    finding = (
        f"{key} is {size(measured.size_bytes)} to load, {figure(share)} of the "
        f"{size(float_bytes)} of the float32 weights"
    )
    passed = share <= limit
    if passed:
        reason = f"{finding}, within the {limit:g} of gate.max_size_share."
    else:
        kind = "Compressed, but bigger" if share > 1 else "Compressed, but not small enough"
        reason = (
            f"{kind}: {finding}, over the {limit:g} of gate.max_size_share; quantize to fewer "
            "bits or prune structured in steps, "
            f"{_or_disable('raise', 'max_size_share')} (a small model is mostly code)."
        )
    return _record("max_size_share", limit, share, passed, reason)


def _bytes(limit: int, key: str, measured: Measurement) -> CheckRecord:
    finding = f"{key} is {measured.size_bytes:,} bytes to load"
    passed = measured.size_bytes <= limit
    if passed:
        reason = f"{finding}, within the {limit:,} of gate.max_bytes."
    else:
        reason = (
            f"Too big: {finding}, over the {limit:,} of gate.max_bytes; quantize to fewer bits or "
            f"prune structured in steps, {_or_disable('raise', 'max_bytes')}."
        )
    return _record("max_bytes", limit, measured.size_bytes, passed, reason)


def _quantized(key: str, operators: int) -> CheckRecord:
    if operators:
        reason = f"{operators} operators of {key} compute, or are stored, in fewer bits."
    else:
        reason = (
            f"Quantized nothing: the recipe has a quantize step, but 0 operators of {key} compute "
            "in fewer bits; choose a scheme in steps that applies to the model's layers (dynamic "
            "and weight-only schemes apply to linear layers alone), or keep fewer of them."
        )
    return _record("quantized_operators", 1, operators, operators > 0, reason)


def _record(name: str, limit: float, measured: float, passed: bool, reason: str) -> CheckRecord:
    sentence = reason[0].upper() + reason[1:] if reason.startswith("the ") else reason
    return CheckRecord(name=name, limit=limit, measured=measured, passed=passed, reason=sentence)


def _drop_of(key: str, measured: Measurement) -> Drop:
    if measured.drop is None:
        raise ValueError(f"{key} was measured without its drop against the baseline")
    return measured.drop


def _agreement_of(key: str, measured: Measurement) -> Agreement:
    if measured.agreement is None:
        raise ValueError(f"{key} was measured without its agreement with the baseline")
    return measured.agreement


def _or_disable(change: str, limit: str) -> str:
    return f"{change} the limit, or disable it with `{limit}: null` under gate"


def _targets(evaluated: Evaluated) -> list[str]:
    keys = [*evaluated.programs, *evaluated.failed]
    return list(dict.fromkeys(_target(key) for key in keys))


def _target(key: str) -> str:
    return key.rpartition("/")[0]


def _change(drop: float) -> str:
    return f"{'drops' if drop >= 0 else 'rises'} by {abs(drop) * 100:.2f} points"
