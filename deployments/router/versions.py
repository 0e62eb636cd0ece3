"""Which artifacts answers may come from: those that the routes were planned for.

answer → its model's version ┬ known           → taken, or refused as before
                             └ seen first here → the plan is made anew → taken, or why not

A model may be deployed anew while Serve leaves the router as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from deployments.router.call import NoAnswerError

Replan = Callable[[str], Awaitable[str | None]]
"""Plans for what is deployed now; why the answers of this model cannot be used, or None."""


class Versions:
    """The versions of all models of a router, each looked into once."""

    def __init__(self, planned: Mapping[str, str], replan: Replan) -> None:
        """``planned``: the version of every model that the plan was made for."""
        self._known: dict[tuple[str, str], str | None] = dict.fromkeys(planned.items())
        self._replan = replan
        self._looking = asyncio.Lock()

    async def require(self, model: str, version: str) -> None:
        """NoAnswerError (503) if the answers of that version cannot be used."""
        key = model, version
        if key not in self._known:
            async with self._looking:
                if key not in self._known:
                    self._known[key] = await self._replan(model)
        reason = self._known[key]
        if reason is not None:
            raise NoAnswerError(
                503, f"{model} serves another artifact now: {reason}; deploy the router again"
            )
