"""Concurrent requests to several nodes, under a policy of `cluster.routing.branches`.

branches → policy.next_actions → start, cancel, wait → again, until it is done → GatherResult
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from cluster.routing.branches import Branch, BranchOutcome, Policy
from deployments.http import tracing
from deployments.router.call import Call, Items, NoAnswerError, Node, Reply, Report

MAX_REPORTS = 16
"""Branches that an error names, at most: a scattered batch may have thousands."""


@dataclass(frozen=True)
class BranchRequest:
    """Request of one branch: its name in reports, its timeout, and the function that sends it."""

    name: str
    timeout_s: float | None
    send: Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class GatherResult:
    """Replies and reports of the branches."""

    replies: tuple[Reply | None, ...]
    """Replies in the order of the branches; None for a branch without an answer."""

    reports: tuple[Report, ...]
    """Reports of the branches that were called, in their order."""

    errors: tuple[NoAnswerError, ...]


async def gather(
    policy: Callable[[], Policy],
    requests: Sequence[BranchRequest],
    call: Call,
    on_request: Callable[[int], None],
) -> GatherResult:
    """Call the branches until the policy is done; then cancel those still in flight.

    ``policy`` is evaluated at every decision. ``on_request`` gets the index of a branch when its
    request starts. Raises NoAnswerError, with a report of every branch, for too few answers. When
    cancelled, it cancels the requests in flight.
    """
    started = time.monotonic()
    run = _Run(requests, call, started)
    try:
        while True:
            now = time.monotonic() - started
            actions = policy().next_actions(run.branches, now, call.deadline - started)
            for index in actions.late:
                run.cancel_late(index)
            if actions.done:
                break
            for index in actions.call:
                on_request(index)
                run.start(index)
            await run.wait(actions.next_check_s, policy().enough)
    finally:
        run.cancel()
    gathered = run.gathered()
    if not policy().enough_answered(run.branches):
        raise _no_answer(gathered)
    return gathered


class _Run:
    def __init__(self, requests: Sequence[BranchRequest], call: Call, started: float) -> None:
        self._requests = requests
        self._call = call
        self._started = started
        # A branch without a timeout has the rest of the request's time.
        self.branches = [
            Branch() if request.timeout_s is None else Branch(timeout_s=request.timeout_s)
            for request in requests
        ]
        self._tasks: dict[asyncio.Task[Reply], int] = {}
        self._finished: deque[asyncio.Task[Reply]] = deque()
        """Tasks in the order in which they ended."""

        self._answered = 0
        self._replies: list[Reply | None] = [None] * len(requests)
        self._reports: list[Report | None] = [None] * len(requests)
        self._errors: list[NoAnswerError] = []

    def start(self, index: int) -> None:
        request = self._requests[index]
        self._set(index, called_s=time.monotonic() - self._started)
        task = asyncio.ensure_future(request.send(self._call.within(request.timeout_s)))
        self._tasks[task] = index
        task.add_done_callback(self._finished.append)

    async def wait(self, until_s: float, enough: int) -> None:
        """Wait for an answer or a failure, then settle those that ended, up to ``enough`` answers.

        Several may end at once on a busy machine. More answers than enough would change the reply.
        """
        timeout_s = max(0.0, self._started + until_s - time.monotonic())
        await asyncio.wait(self._tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        while self._finished and self._answered < enough:
            task = self._finished.popleft()
            if task in self._tasks:
                self._settle(task, self._tasks.pop(task))

    def _settle(self, task: asyncio.Task[Reply], index: int) -> None:
        try:
            reply = task.result()
        except NoAnswerError as error:
            self._errors.append(error)
            self._end(index, Report.of(self._name(index), error, self._waited_s(index)))
        else:
            self._replies[index] = reply
            self._answered += 1
            self._end(index, Report.of(self._name(index), reply, self._waited_s(index)))

    def cancel_late(self, index: int) -> None:
        """Cancel a branch whose timeout is over."""
        self._cancel(index)
        ms = self._waited_s(index) * 1e3
        reason = f"no answer within {ms:.0f} ms"
        self._end(index, Report(self._name(index), BranchOutcome.LATE, ms, reason))

    def cancel(self) -> None:
        """Cancel all branches in flight."""
        for index in list(self._tasks.values()):
            self._cancel(index)
            ms = self._waited_s(index) * 1e3
            reason = "cancelled: the route needs no more answers"
            self._end(index, Report(self._name(index), BranchOutcome.CANCELLED, ms, reason))

    def _cancel(self, index: int) -> None:
        for task in [task for task, i in self._tasks.items() if i == index]:
            del self._tasks[task]
            task.add_done_callback(_retrieve_error)
            task.cancel()

    def _end(self, index: int, report: Report) -> None:
        self._set(index, outcome=report.outcome)
        self._reports[index] = report

    def _name(self, index: int) -> str:
        return self._requests[index].name

    def _waited_s(self, index: int) -> float:
        return time.monotonic() - self._started - (self.branches[index].called_s or 0)

    def _set(self, index: int, **changes: object) -> None:
        self.branches[index] = replace(self.branches[index], **changes)  # type: ignore[arg-type]

    def gathered(self) -> GatherResult:
        reports = tuple(report for report in self._reports if report is not None)
        return GatherResult(tuple(self._replies), reports, tuple(self._errors))


def _retrieve_error(task: asyncio.Task[Reply]) -> None:
    """Retrieve the exception of a cancelled task; asyncio logs those that are never retrieved."""
    if not task.cancelled():
        task.exception()


def _no_answer(gathered: GatherResult) -> NoAnswerError:
    """Return a route's error: an invalid request if a target rejected it, else time or failures."""
    rejection = next((error for error in gathered.errors if error.http_status < 500), None)
    if rejection is not None:
        return NoAnswerError(rejection.http_status, str(rejection), gathered.reports)
    outcomes = [report.outcome for report in gathered.reports]
    failed = (BranchOutcome.FAILED, BranchOutcome.LATE)
    failures = [report for report in gathered.reports if report.outcome in failed][:MAX_REPORTS]
    reasons = "; ".join(f"{report.name}: {report.reason}" for report in failures)
    reports = gathered.reports if len(gathered.reports) <= MAX_REPORTS else tuple(failures)
    # Without an error, nothing failed: the deadline passed before any branch could be called.
    if BranchOutcome.LATE in outcomes or not gathered.errors:
        status = 504
    else:
        # 503 invites a retry: right if no replica was available, not if the targets failed.
        statuses = {error.http_status for error in gathered.errors}
        status = 503 if statuses == {503} else 502
    return NoAnswerError(status, f"too few answers: {reasons or 'the deadline passed'}", reports)


def sender(node: Node, items: Items) -> Callable[[Call], Awaitable[Reply]]:
    """Return the function that calls a node for the items; for :class:`BranchRequest`."""
    return lambda call: node.answer(items, call)


def is_partial(gathered: GatherResult, enough: int) -> bool:
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
    """Ignore the start of a branch; for routes that do not count their requests."""
