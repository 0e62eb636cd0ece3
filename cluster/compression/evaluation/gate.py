"""The gate: what a build must reach to become servable. Pure.

    Evaluated ─ admitted ─→ without programs over the accuracy budget, where others are within it
              ─ check ─→ one CheckRecord per limit and target; all must pass

Every reason is one sentence with the numbers and, for a refusal, the setting of the recipe to
change.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from statistics import geometric_mean

from cluster.artifact.manifest import Drop, Measurement
from cluster.compression.evaluation.evaluate import Evaluated
from cluster.compression.figures import figure, milliseconds, size, times
from cluster.compression.record import CheckRecord
from cluster.config.recipe import Gate

REASON_LENGTH = 300
"""Characters that are quoted of why a program failed."""

_ROUNDING = 1e-9
"""A hair over the limit: shares are counts over the same samples."""


def check(
    gate: Gate, evaluated: Evaluated, *, float_bytes: int, quantized_operators: int,
    wants_quantized: bool,
) -> tuple[CheckRecord, ...]:  # fmt: skip
    """Every limit that the gate sets, for the fastest program of each target.

    ``float_bytes``: of the float32 weights before compression. ``wants_quantized``: a step was
    to quantize. The build is accepted if all checks have passed.
    """
    checks: list[CheckRecord] = []
    for target in _targets(evaluated):
        kind = evaluated.fastest.get(target)
        checks.append(_loads(target, kind, evaluated))
        if kind is not None:
            key = f"{target}/{kind}"
            checks += _limits(gate, key, evaluated.programs[key], evaluated.baseline, float_bytes)
    if not checks:
        checks.append(_no_program())
    if wants_quantized:
        checks.append(_quantized(quantized_operators))
    return tuple(checks)


def admitted(gate: Gate, evaluated: Evaluated) -> Evaluated:
    """Without the programs whose accuracy drop is over the budget, if their target has others.

    A compiler that quantizes by its own means may lose what another one keeps; then the other is
    the target's program, and the build need not fail. What is left out stands in ``failed``.
    """
    if gate.max_accuracy_drop is None:
        return evaluated
    over = {
        key: each
        for key, each in evaluated.programs.items()
        if _drop_of(key, each).upper > gate.max_accuracy_drop + _ROUNDING
    }
    programs = {key: each for key, each in evaluated.programs.items() if key not in over}
    saved = {_target(key) for key in programs}
    out = {key: each for key, each in over.items() if _target(key) in saved}
    fastest = dict(evaluated.fastest)
    for target in {_target(key) for key in out}:
        keys = [key for key in programs if _target(key) == target]
        best = min(keys, key=lambda key: geometric_mean(e.p50_ms for e in programs[key].latency))
        fastest[target] = best.removeprefix(f"{target}/")
    reasons = {key: _accuracy_drop(gate.max_accuracy_drop, key, out[key]).reason for key in out}
    return evaluated.model_copy(
        update={
            "programs": {k: each for k, each in evaluated.programs.items() if k not in out},
            "failed": {**evaluated.failed, **reasons},
            "fastest": fastest,
            "static": {k: each for k, each in evaluated.static.items() if k not in out},
        }
    )


def _limits(
    gate: Gate, key: str, measured: Measurement, baseline: Measurement, float_bytes: int
) -> Iterator[CheckRecord]:
    if gate.max_accuracy_drop is not None:
        yield _accuracy_drop(gate.max_accuracy_drop, key, measured)
    if gate.min_speedup is not None:
        yield _speedup(gate.min_speedup, key, measured, baseline)
    if gate.max_size_share is not None:
        yield _size_share(gate.max_size_share, key, measured, float_bytes)
    if gate.max_bytes is not None:
        yield _bytes(gate.max_bytes, key, measured)


def _loads(target: str, kind: str | None, evaluated: Evaluated) -> CheckRecord:
    failed = [
        f"{key.removeprefix(f'{target}/')} ({textwrap.shorten(why, REASON_LENGTH)})"
        for key, why in evaluated.failed.items()
        if _target(key) == target
    ]
    if kind is None:
        reason = (
            f"Does not load on the target: of the programs for {target} none works: "
            f"{'; '.join(failed) or 'none was built'}; change its programs.kinds, or build on a "
            f"machine that has {target}."
        )
    else:
        working = sum(_target(key) == target for key in evaluated.programs)
        reason = (
            f"{target}/{kind} loads in a fresh process and is the fastest of {working} "
            f"{'program' if working == 1 else 'programs'} that work."
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
    found = (
        f"the score of {key} {_change(drop.mean)} on {measured.samples} samples, and with "
        f"{drop.confidence * 100:g} % confidence {_change(drop.upper)} at "
        f"{'most' if drop.upper >= 0 else 'least'}"
    )
    if passed:
        reason = f"{found}, within the {limit * 100:.2f} of gate.max_accuracy_drop."
    else:
        narrow = drop.mean <= limit
        advice = "measure more evaluation.samples, " if narrow else ""
        reason = (
            f"Accuracy drop's upper confidence bound over the budget: {found}, over the "
            f"{limit * 100:.2f} of gate.max_accuracy_drop; {advice}compress less in steps, add "
            "recovery training, or raise the limit."
        )
    return _record("max_accuracy_drop", limit, drop.upper, passed, reason)


def _speedup(limit: float, key: str, measured: Measurement, baseline: Measurement) -> CheckRecord:
    before, after = baseline.at_batch(1).p50_ms, measured.at_batch(1).p50_ms
    speedup = before / after
    found = (
        f"{key} takes {milliseconds(after)} at batch 1 and the baseline {milliseconds(before)}, "
        f"a speed-up of {times(speedup)}"
    )
    passed = speedup >= limit
    if passed:
        reason = f"{found}, at least the {limit:g}× of gate.min_speedup."
    else:
        kind = "Compressed, but slower" if speedup < 1 else "Compressed, but not fast enough"
        reason = (
            f"{kind}: {found}, under the {limit:g}× of gate.min_speedup; try another scheme or "
            "structured pruning in steps, more programs.kinds, or lower the limit."
        )
    return _record("min_speedup", limit, speedup, passed, reason)


def _size_share(limit: float, key: str, measured: Measurement, float_bytes: int) -> CheckRecord:
    share = measured.size_bytes / float_bytes
    found = (
        f"{key} is {size(measured.size_bytes)} to load, {figure(share)} of the "
        f"{size(float_bytes)} of the float32 weights"
    )
    passed = share <= limit
    if passed:
        reason = f"{found}, within the {limit:g} of gate.max_size_share."
    else:
        kind = "Compressed, but bigger" if share > 1 else "Compressed, but not small enough"
        reason = (
            f"{kind}: {found}, over the {limit:g} of gate.max_size_share; quantize to fewer "
            "bits or prune structured in steps, or raise the limit (a small model is mostly code)."
        )
    return _record("max_size_share", limit, share, passed, reason)


def _bytes(limit: int, key: str, measured: Measurement) -> CheckRecord:
    found = f"{key} is {measured.size_bytes:,} bytes to load"
    passed = measured.size_bytes <= limit
    if passed:
        reason = f"{found}, within the {limit:,} of gate.max_bytes."
    else:
        reason = (
            f"Too big: {found}, over the {limit:,} of gate.max_bytes; quantize to fewer bits or "
            "prune structured in steps, or raise the limit."
        )
    return _record("max_bytes", limit, measured.size_bytes, passed, reason)


def _quantized(operators: int) -> CheckRecord:
    if operators:
        reason = f"{operators} operators compute, or are stored, in fewer bits."
    else:
        reason = (
            "Quantized nothing: a quantize step was asked for and 0 operators compute in fewer "
            "bits; choose a scheme in steps that takes the model's layers (dynamic and "
            "weight-only schemes take linear layers alone), or keep fewer of them."
        )
    return _record("quantized_operators", 1, operators, operators > 0, reason)


def _record(name: str, limit: float, measured: float, passed: bool, reason: str) -> CheckRecord:
    sentence = reason[0].upper() + reason[1:] if reason.startswith("the ") else reason
    return CheckRecord(name=name, limit=limit, measured=measured, passed=passed, reason=sentence)


def _drop_of(key: str, measured: Measurement) -> Drop:
    if measured.drop is None:
        raise ValueError(f"{key} was measured without its drop against the baseline")
    return measured.drop


def _targets(evaluated: Evaluated) -> list[str]:
    keys = [*evaluated.programs, *evaluated.failed]
    return list(dict.fromkeys(_target(key) for key in keys))


def _target(key: str) -> str:
    return key.rpartition("/")[0]


def _change(drop: float) -> str:
    return f"{'drops' if drop >= 0 else 'rises'} by {abs(drop) * 100:.2f} points"
