"""Model versions whose answers a router may use: those that its plan fits.

answer → its model's version ┬ the last one → used, or rejected with the known reason
                             ├ known before → its thresholds apply again
                             └ new          → plan again → used, or rejected with the reason

A model may be redeployed, and rolled back, while Serve leaves the router running.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from deployments.router.call import NoAnswerError

RETRY_S = 5.0
"""Time until a plan that failed for a reason that may change is made again, in seconds."""

Thresholds = Mapping[str, tuple[float, ...]]
"""Thresholds of the cascades, by name."""


@dataclass(frozen=True)
class Planned:
    """Result of a plan for the current deployments."""

    reason: str | None
    """Reason to reject the model's answers; None: they are used."""

    thresholds: Thresholds = field(default_factory=dict)
    may_change: bool = False
    """Whether the same plan may succeed later, as when a store was out of reach."""

    made: float = field(default_factory=time.monotonic)

    @property
    def is_stale(self) -> bool:
        """Whether the plan is to be made again."""
        return self.may_change and time.monotonic() - self.made > RETRY_S


class Versions:
    """Versions of a router's models; each new version is checked once."""

    def __init__(
        self,
        versions: Mapping[str, str],
        thresholds: Thresholds,
        replan: Callable[[str, str], Awaitable[Planned]],
        apply: Callable[[Thresholds], None],
    ) -> None:
        """``versions``, ``thresholds``: of the plan that the router was built with.

        ``replan`` plans for the current deployments, for a model's new version. ``apply`` gets the
        thresholds that hold for the version that answered last.
        """
        self._plans = {key: Planned(None, thresholds) for key in versions.items()}
        self._current = dict(versions)
        self._replan = replan
        self._apply = apply
        self._lock = asyncio.Lock()

    async def require(self, model: str, version: str) -> None:
        """Raise NoAnswerError (503) if the answers of that version cannot be used."""
        key = model, version
        plan = self._plans.get(key)
        if plan is None or plan.is_stale:
            async with self._lock:
                plan = self._plans.get(key)
                if plan is None or plan.is_stale:
                    plan = self._plans[key] = await self._replan(model, version)
        if plan.reason is not None:
            raise NoAnswerError(
                503, f"{model} serves a new artifact: {plan.reason}; deploy the router again"
            )
        if self._current.get(model) != version:
            self._current[model] = version
            self._apply(plan.thresholds)
