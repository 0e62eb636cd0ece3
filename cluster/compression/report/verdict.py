"""The verdict as data: accepted or rejected, check by check, and the warning on random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.compression.record import BuildRecord, CheckRecord


@dataclass(frozen=True)
class VerdictView:
    """One line on the build, and every limit of the gate."""

    accepted: bool
    why: str
    checks: Sequence[CheckRecord]
    """Failed checks come first: a reader of a rejection looks for them."""


def verdict(record: BuildRecord) -> VerdictView:
    """Return the verdict on a build."""
    failed = sum(not check.passed for check in record.checks)
    count = len(record.checks)
    why = (
        f"{count} of {count} checks passed"
        if record.accepted
        else f"{failed} of {count} checks failed; nothing was published"
    )
    return VerdictView(record.accepted, why, sorted(record.checks, key=lambda check: check.passed))


@dataclass(frozen=True)
class Caution:
    """Warning at the top of the page: the cause in bold, then its consequence."""

    cause: str
    consequence: str


def random_weights(record: BuildRecord) -> Caution | None:
    """Return the warning that scores say nothing, or None if the weights were trained."""
    if not record.random_weights:
        return None
    source = record.recipe.get("model", {}).get("source", "")
    if source.startswith("python:"):  # a factory may load its weights itself
        cause = "No weights were given and none were trained. "
        random = f"Unless {source} loads weights itself, they are random and the scores say nothing"
    else:
        cause = "The weights were never trained. "
        random = "The model was built with random weights, so its scores say nothing"
    return Caution(
        cause,
        f"{random}; sizes, multiply-accumulates and latencies are those of the real architecture.",
    )
