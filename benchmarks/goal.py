"""One promise of an issue or a README, and what was measured of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Goal(BaseModel):
    """What was measured, and the least or most it may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: str
    measured: float
    limit: float
    at_least: bool
    unit: str

    @property
    def met(self) -> bool:
        """Compared as shown: a limit is not missed by what rounding hides."""
        measured, limit = round(self.measured, 3), self.limit
        return measured >= limit if self.at_least else measured <= limit
