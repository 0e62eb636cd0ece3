"""Gate: decides which programs of a build are served, and whether the build is. Pure.

    EvaluationResult ─ admit ─→ without programs that break a limit, if others keep all limits
                     ─ check ─→ one CheckRecord per limit and target; all must pass

The limits on a program's figures are the table in ``limits.py``. Two checks are always made: a
program loads, and a recipe that quantizes has quantized operators.
"""

from __future__ import annotations

import textwrap

from cluster.compression.evaluation import limits
from cluster.compression.evaluation.evaluate import EvaluationResult
from cluster.compression.record import CheckRecord
from cluster.config.gate import Gate

REASON_LENGTH = 300
"""Maximum length of a quoted reason for a program's failure."""


def check(
    gate: Gate, evaluation: EvaluationResult, *, float_bytes: int, wants_quantized: bool
) -> tuple[CheckRecord, ...]:
    """Check every limit of the gate, for the fastest program of each target.

    ``float_bytes``: bytes of the float32 weights before compression. ``wants_quantized``: the
    recipe has a quantize step. The build is accepted if all checks pass.
    """
    checks: list[CheckRecord] = []
    for target in _targets(evaluation):
        kind = evaluation.fastest.get(target)
        checks.append(_loads(target, kind, evaluation))
        if kind is not None:
            checks += _checks(gate, f"{target}/{kind}", evaluation, float_bytes, wants_quantized)
    return tuple(checks) or (_no_program(),)


def admit(
    gate: Gate, evaluation: EvaluationResult, *, float_bytes: int, wants_quantized: bool
) -> EvaluationResult:
    """Return ``evaluation`` without programs that break a limit, if their target has better ones.

    A compiler that quantizes by its own means may lose accuracy that another one keeps, and the
    fastest program may be too large. Then another program serves the target, and the build need
    not fail. ``left_out`` has the excluded programs with the reasons. The other arguments are those
    of :func:`check`.
    """
    broken = {
        key: " ".join(
            check.reason
            for check in _checks(gate, key, evaluation, float_bytes, wants_quantized)
            if not check.passed
        )
        for key in evaluation.programs
    }
    served = {_target(key) for key, reasons in broken.items() if not reasons}
    excluded = {key: why for key, why in broken.items() if why and _target(key) in served}
    programs = {k: program for k, program in evaluation.programs.items() if k not in excluded}
    static = {k: batches for k, batches in evaluation.static.items() if k not in excluded}
    return evaluation.model_copy(
        update={
            "programs": programs,
            "left_out": {**evaluation.left_out, **excluded},
            "static": static,
        }
    )


def _checks(
    gate: Gate, key: str, evaluation: EvaluationResult, float_bytes: int, wants_quantized: bool
) -> list[CheckRecord]:
    candidate = limits.Candidate(
        key=key,
        measured=evaluation.programs[key],
        baseline=evaluation.baselines[key],
        float_bytes=float_bytes,
        cause=evaluation.causes.get(key, ""),
    )
    quantized = [_quantized(key, evaluation.operators.get(key, 0))] if wants_quantized else []
    return [*limits.checks(gate, candidate), *quantized]


def _loads(target: str, kind: str | None, evaluation: EvaluationResult) -> CheckRecord:
    failed = [
        f"{key.removeprefix(f'{target}/')} ({textwrap.shorten(why, REASON_LENGTH)})"
        for key, why in evaluation.failed.items()
        if _target(key) == target
    ]
    if kind is None:
        reason = (
            f"Does not load on the target: no program for {target} works: "
            f"{'; '.join(failed) or 'none was built'}; change its programs.kinds, or build on a "
            f"machine that has {target}."
        )
    else:
        working = sum(_target(key) == target for key in evaluation.programs)
        excluded = ", ".join(
            key.removeprefix(f"{target}/") for key in evaluation.left_out if _target(key) == target
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


def _quantized(key: str, operators: int) -> CheckRecord:
    if operators:
        reason = f"{operators} operators of {key} compute, or are stored, in fewer bits."
    else:
        reason = (
            f"Quantized nothing: the recipe has a quantize step, but 0 operators of {key} compute "
            "in fewer bits; choose a scheme in steps that applies to the model's layers (dynamic "
            "and weight-only schemes apply to linear layers alone), or keep fewer of them."
        )
    return CheckRecord(
        name="quantized_operators",
        limit=1,
        measured=operators,
        passed=operators > 0,
        reason=reason,
    )


def _targets(evaluation: EvaluationResult) -> list[str]:
    keys = [*evaluation.programs, *evaluation.failed]
    return list(dict.fromkeys(_target(key) for key in keys))


def _target(key: str) -> str:
    return key.rpartition("/")[0]
