"""The verdict as data: accepted or rejected, check by check."""

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
