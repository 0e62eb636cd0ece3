"""Model versions whose answers a router may use: those that its plan fits.

answer → its model's version ┬ known → used, or rejected with the known reason
                             └ new   → plan again → used, or rejected with the reason

A model may be redeployed while Serve leaves the router running.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from deployments.router.call import NoAnswerError

Replan = Callable[[str], Awaitable[str | None]]
"""Plans for the current deployments; returns the reason to reject this model, or None."""


class Versions:
    """Versions of a router's models; each new version is checked once."""

    def __init__(self, versions: Mapping[str, str], replan: Replan) -> None:
        """``versions``: the plan's version of every model."""
        self._reasons: dict[tuple[str, str], str | None] = dict.fromkeys(versions.items())
        """Reason to reject a version, by model and version; None: its answers are used."""
        self._replan = replan
        self._lock = asyncio.Lock()

    async def require(self, model: str, version: str) -> None:
        """Raise NoAnswerError (503) if the answers of that version cannot be used."""
        key = model, version
        if key not in self._reasons:
            async with self._lock:
                if key not in self._reasons:
                    self._reasons[key] = await self._replan(model)
        reason = self._reasons[key]
        if reason is not None:
            raise NoAnswerError(
                503, f"{model} serves a new artifact: {reason}; deploy the router again"
            )
