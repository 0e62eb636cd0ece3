"""Asking several nodes at once, as a policy of `cluster.routing.branches` says step by step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from cluster.routing.branches import Branch, Ended, Policy
from deployments.http import tracing
from deployments.router.call import Call, Items, NoAnswerError, Node, Reply, Report

NAMED = 16
"""Branches that an error names, at most: of a scattered batch there may be thousands."""


@dataclass(frozen=True)
class Ask:
    """One branch: what to call it, how long to wait for it, and how to ask."""

    name: str
    timeout_s: float | None
    send: Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class Gathered:
    """What came of the branches."""

    replies: tuple[Reply | None, ...]
    """In the order of the branches; None for one without an answer."""

    reports: tuple[Report, ...]
    """Of the branches that were asked, in their order."""

    errors: tuple[NoAnswerError, ...]


async def gather(
    policy: Callable[[], Policy], asks: Sequence[Ask], call: Call, asked: Callable[[int], None]
) -> Gathered:
    """Ask until the policy is done; what is still under way then, or when this is cancelled, is
    cancelled.

    ``policy`` is looked at anew for every step. ``asked`` hears of every branch as it is asked.
    NoAnswerError, with a report of every branch, if the answers are not enough.
    """
    started = time.monotonic()
    run = _Run(asks, call, started)
    try:
        while True:
            now = time.monotonic() - started
            step = policy().step(run.branches, now, call.deadline - started)
            for index in step.late:
                run.give_up(index)
            if step.done:
                break
            for index in step.ask:
                asked(index)
                run.ask(index)
            await run.wait(step.look_again_s)
    finally:
        run.cancel()
    gathered = run.gathered()
    if not policy().enough_answered(run.branches):
        raise _no_answer(gathered)
    return gathered


class _Run:
    def __init__(self, asks: Sequence[Ask], call: Call, started: float) -> None:
        self._asks = asks
        self._call = call
        self._started = started
        # A branch without a time of its own has what is left of the request's.
        self.branches = [
            Branch() if ask.timeout_s is None else Branch(timeout_s=ask.timeout_s) for ask in asks
        ]
        self._tasks: dict[asyncio.Task[Reply], int] = {}
        self._replies: list[Reply | None] = [None] * len(asks)
        self._reports: list[Report | None] = [None] * len(asks)
        self._errors: list[NoAnswerError] = []

    def ask(self, index: int) -> None:
        ask = self._asks[index]
        self._set(index, asked_s=time.monotonic() - self._started)
        task = asyncio.ensure_future(ask.send(self._call.within(ask.timeout_s)))
        self._tasks[task] = index

    async def wait(self, until_s: float) -> None:
        timeout_s = max(0.0, self._started + until_s - time.monotonic())
        done, _ = await asyncio.wait(
            self._tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            self._settle(task, self._tasks.pop(task))

    def _settle(self, task: asyncio.Task[Reply], index: int) -> None:
        try:
            reply = task.result()
        except NoAnswerError as error:
            self._errors.append(error)
            self._end(index, error.ended, str(error), below=error.reports)
        else:
            self._replies[index] = reply
            self._end(index, Ended.ANSWERED, None, reply)

    def give_up(self, index: int) -> None:
        """Its time is over."""
        self._cancel(index)
        waited_s = time.monotonic() - self._started - (self.branches[index].asked_s or 0)
        self._end(index, Ended.LATE, f"no answer within {waited_s * 1e3:.0f} ms")

    def cancel(self) -> None:
        """Nobody waits for the others any more."""
        for index in list(self._tasks.values()):
            self._cancel(index)
            self._end(index, Ended.CANCELLED, "it was not needed any more")

    def _cancel(self, index: int) -> None:
        for task in [task for task, i in self._tasks.items() if i == index]:
            del self._tasks[task]
            task.add_done_callback(_ignored)
            task.cancel()

    def _end(
        self,
        index: int,
        ended: Ended,
        reason: str | None,
        reply: Reply | None = None,
        below: tuple[Report, ...] = (),
    ) -> None:
        self._set(index, ended=ended)
        ms = (time.monotonic() - self._started - (self.branches[index].asked_s or 0)) * 1e3
        self._reports[index] = Report(
            self._asks[index].name, ended, ms, reason,
            reply.timing if reply else {}, reply.reports if reply else below,
        )  # fmt: skip

    def _set(self, index: int, **changes: object) -> None:
        self.branches[index] = replace(self.branches[index], **changes)  # type: ignore[arg-type]

    def gathered(self) -> Gathered:
        reports = tuple(report for report in self._reports if report is not None)
        return Gathered(tuple(self._replies), reports, tuple(self._errors))


def _ignored(task: asyncio.Task[Reply]) -> None:
    """Look at how a cancelled task ended, or asyncio logs that nobody did."""
    if not task.cancelled():
        task.exception()


def _no_answer(gathered: Gathered) -> NoAnswerError:
    """Why a route has none: the request itself, if a target says so; else time, or failures."""
    refused = next((error for error in gathered.errors if error.http_status < 500), None)
    if refused is not None:
        return NoAnswerError(refused.http_status, str(refused), gathered.reports)
    ended = [report.ended for report in gathered.reports]
    failed = [r for r in gathered.reports if r.ended in (Ended.FAILED, Ended.LATE)]
    said = "; ".join(f"{report.name}: {report.reason}" for report in failed[:NAMED])
    reports = gathered.reports if len(gathered.reports) <= NAMED else tuple(failed[:NAMED])
    # Without an error, nothing failed: the time was over before any branch could be asked.
    if Ended.LATE in ended or not gathered.errors:
        status = 504
    else:
        # Nobody there at all is worth asking again soon; a failure may be one every time.
        statuses = {error.http_status for error in gathered.errors}
        status = 503 if statuses == {503} else 502
    return NoAnswerError(status, f"too few answers: {said or 'the time was over'}", reports)


def sender(node: Node, items: Items) -> Callable[[Call], Awaitable[Reply]]:
    """Return the function that asks a node for the items; for :class:`Ask`."""
    return lambda call: node.answer(items, call)


def is_partial(gathered: Gathered, enough: int) -> bool:
    """Whether fewer than ``enough`` branches answered, or one of them only in part."""
    replies = [reply for reply in gathered.replies if reply is not None]
    return len(replies) < enough or any(reply.partial for reply in replies)


def combine_timing(started: float) -> dict[str, float]:
    """Return and record the phase ``combine`` in ms: from ``started``, on the performance
    counter, until now."""
    timing = {"combine": (time.perf_counter() - started) * 1e3}
    tracing.phases(timing)
    return timing


def ignore(index: int) -> None:
    """Ignore the start of a branch; for routes that count none."""
