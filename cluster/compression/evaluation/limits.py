"""Table of the gate's limits: the figure that each judges, its bound, and the words. Pure.

    Candidate, limit ─ LIMITS[name].judge ─→ Finding ─ bound ─→ CheckRecord

A limit's default and range are the field of the same name in ``cluster/config/gate.py``. Every
reason is one sentence with the numbers and, for a refusal, the recipe's setting to change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.artifact.manifest import Agreement, Drop, Measurement
from cluster.compression.figures import figure, milliseconds, size, times
from cluster.compression.record import CheckRecord
from cluster.config.gate import Gate

_ROUNDING = 1e-9
"""Tolerance of a limit: shares are counts over the same samples, and may be rounded."""


@dataclass(frozen=True)
class Candidate:
    """Measured program that the limits judge."""

    key: str
    """``target/kind``."""
    measured: Measurement
    baseline: Measurement
    """The baseline on the program's device."""
    float_bytes: int
    """Bytes of the float32 weights before compression."""
    cause: str = ""
    """Likely cause of a loss of accuracy, and what to change; empty if none is known."""


@dataclass(frozen=True)
class Finding:
    """Figure of a candidate beside its limit, in numbers and in words."""

    value: float
    limit: float
    sentence: str
    """The figure as the beginning of a sentence."""
    fault: str
    """Heading of the sentence if the value breaks the limit."""
    advice: str = ""
    """First thing to change then, before the limit's own advice."""


@dataclass(frozen=True)
class Bound:
    """Comparison of a value with a limit, and its words."""

    holds: Callable[[float, float], bool]
    passed: str
    failed: str
    loosen: str


AT_MOST = Bound(lambda value, limit: value <= limit + _ROUNDING, "within", "over", "raise")
AT_LEAST = Bound(lambda value, limit: value >= limit - _ROUNDING, "at least", "under", "lower")


@dataclass(frozen=True)
class Limit:
    """Limit of the gate: how a candidate is judged by it, and what to change for a refusal."""

    judge: Callable[[Candidate, float], Finding]
    bound: Bound
    advice: str
    note: str = ""
    """Last words of a refusal."""
    text: Callable[[float], str] = "{:g}".format
    """Limit → its text in a reason."""
    most_bytes: Callable[[float, int], float] | None = None
    """Limit, bytes of the float32 weights → maximum bytes of a program.

    None: the limit is not on size.
    """

    def check(self, name: str, limit: float, candidate: Candidate) -> CheckRecord:
        """Judge a candidate by the limit of this name."""
        finding = self.judge(candidate, limit)
        passed = self.bound.holds(finding.value, finding.limit)
        text = f"{self.text(finding.limit)} of gate.{name}"
        if passed:
            reason = f"{finding.sentence}, {self.bound.passed} the {text}."
        else:
            reason = (
                f"{finding.fault}: {finding.sentence}, {self.bound.failed} the {text}; "
                f"{finding.advice}{self.advice}, {self.bound.loosen} the limit, or disable it with "
                f"`{name}: null` under gate{self.note}."
            )
        if reason.startswith("the "):
            reason = f"T{reason[1:]}"
        return CheckRecord(
            name=name, limit=finding.limit, measured=finding.value, passed=passed, reason=reason
        )


def checks(gate: Gate, candidate: Candidate) -> list[CheckRecord]:
    """Judge a candidate by every limit in force; a default limit is marked as such."""
    return [
        LIMITS[name]
        .check(name, limit, candidate)
        .model_copy(update={"default": name in gate.defaults})
        for name, limit in gate.limits.items()
    ]


def most_bytes(gate: Gate, float_bytes: int) -> float:
    """Return the bytes that a program may have under all limits; infinity if none is on size."""
    return min(
        (
            cap(limit, float_bytes)
            for name, limit in gate.limits.items()
            if (cap := LIMITS[name].most_bytes) is not None
        ),
        default=float("inf"),
    )


# ---------------------------------------------------------------------------- figures


def _accuracy_drop(candidate: Candidate, limit: float) -> Finding:
    drop = _drop_of(candidate)
    return Finding(
        value=drop.upper,
        limit=limit,
        sentence=f"the score of {candidate.key} {_change(drop.mean)} on "
        f"{candidate.measured.samples} samples, and with {drop.confidence * 100:g} % confidence "
        f"{_change(drop.upper)} at {'most' if drop.upper >= 0 else 'least'}",
        fault="Accuracy drop's upper confidence bound over the budget",
        advice=_cause(candidate) + (_MORE_SAMPLES if drop.mean <= limit else ""),
    )


def _agreement(candidate: Candidate, limit: float) -> Finding:
    agreement = _agreement_of(candidate)
    phrase = _AGREEMENT[agreement.measure].format(mean=agreement.mean)
    return Finding(
        value=agreement.lower,
        limit=limit,
        sentence=f"{candidate.key} {phrase} on {candidate.measured.samples} samples, and with "
        f"{agreement.confidence * 100:g} % confidence {agreement.lower:.4f} at least",
        fault="Agreement's lower confidence bound under the limit",
        advice=_cause(candidate) + (_MORE_SAMPLES if agreement.mean >= limit else ""),
    )


def _speedup(candidate: Candidate, limit: float) -> Finding:
    """Return the finding of batch 1; if only other sizes are too slow, of the slowest of them.

    Batch 1 must reach ``limit``. The others must not be slower than the baseline, or than a
    ``limit`` below 1 allows.
    """
    measured, baseline = candidate.measured, candidate.baseline
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
    return Finding(
        value=speedup,
        limit=least,
        sentence=f"{candidate.key} takes {milliseconds(after)} at batch {batch} and the baseline "
        f"{milliseconds(before)}, a speed-up of {times(speedup)}",
        fault=f"Compressed, but {'slower' if speedup < 1 else 'not fast enough'}",
    )


def _size_share(candidate: Candidate, limit: float) -> Finding:
    share = candidate.measured.size_bytes / candidate.float_bytes
    return Finding(
        value=share,
        limit=limit,
        sentence=f"{candidate.key} is {size(candidate.measured.size_bytes)} to load, "
        f"{figure(share)} of the {size(candidate.float_bytes)} of the float32 weights",
        fault=f"Compressed, but {'bigger' if share > 1 else 'not small enough'}",
    )


def _bytes(candidate: Candidate, limit: float) -> Finding:
    size_bytes = candidate.measured.size_bytes
    sentence = f"{candidate.key} is {size_bytes:,} bytes to load"
    return Finding(value=size_bytes, limit=limit, sentence=sentence, fault="Too big")


def _drop_of(candidate: Candidate) -> Drop:
    if candidate.measured.drop is None:
        raise ValueError(f"{candidate.key} was measured without its drop against the baseline")
    return candidate.measured.drop


def _agreement_of(candidate: Candidate) -> Agreement:
    if candidate.measured.agreement is None:
        raise ValueError(f"{candidate.key} was measured without its agreement with the baseline")
    return candidate.measured.agreement


def _cause(candidate: Candidate) -> str:
    return f"a likely cause is that {candidate.cause}; or " if candidate.cause else ""


def _change(drop: float) -> str:
    return f"{'drops' if drop >= 0 else 'rises'} by {abs(drop) * 100:.2f} points"


_MORE_SAMPLES = "measure more evaluation.samples, "
"""Advice where the mean keeps the limit and only the confidence bound breaks it."""

_AGREEMENT = {
    "predictions": "predicts the class that the baseline predicts for {mean:.2%}",
    "labels": "chooses the labels that the baseline chooses with a mean F1 of {mean:.4f}",
    "numbers": "explains a share of {mean:.4f} of the variance of the baseline's numbers",
    "cosine": "has a mean cosine similarity to the baseline of {mean:.4f}",
    "ranking": "ranks like the baseline with a mean correlation of {mean:.4f}",
}
"""Measure → phrase for a program, with the mean."""

_SMALLER = "quantize to fewer bits or prune structured in steps"


# ---------------------------------------------------------------------------- the table

LIMITS: dict[str, Limit] = {
    "max_accuracy_drop": Limit(
        _accuracy_drop,
        AT_MOST,
        advice="compress less in steps, add recovery training",
        text=lambda limit: f"{limit * 100:.2f}",
    ),
    "min_agreement": Limit(
        _agreement,
        replace(AT_LEAST, passed="not under"),  # the sentence itself ends with "at least"
        advice="compress less in steps",
    ),
    "min_speedup": Limit(
        _speedup,
        AT_LEAST,
        advice="try another scheme or structured pruning in steps, more programs.kinds",
        text="{:g}×".format,
    ),
    "max_size_share": Limit(
        _size_share,
        AT_MOST,
        advice=_SMALLER,
        note=" (a small model is mostly code)",
        most_bytes=lambda limit, float_bytes: limit * float_bytes,
    ),
    "max_bytes": Limit(
        _bytes,
        AT_MOST,
        advice=_SMALLER,
        text="{:,}".format,
        most_bytes=lambda limit, _: limit,
    ),
}
"""Limits of the gate by the names of their fields in the recipe."""
