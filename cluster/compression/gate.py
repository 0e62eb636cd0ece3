"""The gate: what a build must reach to become servable. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.compression.evaluate import Evaluated
from cluster.config.recipe import Gate


@dataclass(frozen=True)
class Check:
    """One limit of the gate, beside what was measured."""

    name: str
    limit: float
    measured: float
    passed: bool


def check(gate: Gate, found: Evaluated) -> tuple[Check, ...]:
    """Every limit that the gate sets; the build is accepted if all have passed."""
    checks = []
    if gate.max_accuracy_drop is not None:
        drop = found.baseline.accuracy - found.artifact.accuracy
        checks.append(
            # A hair over the limit is rounding: shares are counts over the same samples.
            Check("max_accuracy_drop", gate.max_accuracy_drop, drop,
                  drop <= gate.max_accuracy_drop + 1e-9)
        )  # fmt: skip
    if gate.min_speedup is not None:
        speedup = found.baseline.at_batch(1).p50_ms / found.artifact.at_batch(1).p50_ms
        checks.append(Check("min_speedup", gate.min_speedup, speedup, speedup >= gate.min_speedup))
    if gate.max_bytes is not None:
        size = found.artifact.size_bytes
        checks.append(Check("max_bytes", gate.max_bytes, size, size <= gate.max_bytes))
    return tuple(checks)
