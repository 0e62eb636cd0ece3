"""Goals of a benchmark: a claim, its measured value and its limit."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Goal(BaseModel):
    """A measured value and the least or most that it may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: str
    measured: float
    limit: float
    at_least: bool
    unit: str

    @property
    def met(self) -> bool:
        """Whether the goal is met at three decimals, so that rounding alone misses no limit."""
        measured, limit = round(self.measured, 3), self.limit
        return measured >= limit if self.at_least else measured <= limit

    @property
    def shown(self) -> str:
        """Measured value with its unit."""
        return _shown(self.measured, self.unit)

    @property
    def shown_limit(self) -> str:
        """Limit with its direction and unit."""
        return f"{'≥' if self.at_least else '≤'} {_shown(self.limit, self.unit)}"


def at_least(claim: str, measured: float, limit: float, unit: str = "×") -> Goal:
    """Return the goal that ``measured`` reaches ``limit``."""
    return Goal(claim=claim, measured=measured, limit=limit, at_least=True, unit=unit)


def at_most(claim: str, measured: float, limit: float, unit: str = "×") -> Goal:
    """Return the goal that ``measured`` does not exceed ``limit``."""
    return Goal(claim=claim, measured=measured, limit=limit, at_least=False, unit=unit)


def _shown(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 3 if unit == "" else 2
    return f"{value:.{digits}f}{unit}"
