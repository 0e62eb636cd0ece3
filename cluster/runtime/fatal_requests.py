"""Requests that end a process, recognised by their content on every replica of a node.

    enter ─┬ content not known                → runs with others
           ├ in flight as a process ended     → runs alone, once on the node → not known any more
           └ alone as a process ended         → FatalRequestError
    mark: decoding → queued → computing → left

A file is mapped into each replica of a model. A process writes its own row: the digests of its
requests in flight, and what it does with each. A row stays as its process leaves it, also if the
program aborts, so the other replicas and the next one find there what the process was computing.

One process may end for a reason of its own, by an operator's hand or for memory. So only a crash
with a single request at work convicts it at once; else each suspect runs again, with no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np

from cluster.errors import ClusterError, FatalRequestError
from cluster.runtime.process_slots import ProcessSlots, map_file, open_file

logger = logging.getLogger(__name__)

ROWS = 256
"""Processes whose requests are known at once, ended ones among them."""

ENTRIES = 1024
"""Requests in flight of one process; further ones are not recognised."""

KEPT_S = 3600.0
"""Time in seconds for which the requests of an ended process are known."""

POLL_S = 0.005
"""Time in seconds between two looks at a suspect that runs elsewhere."""

_QUEUED, _DECODING, _COMPUTING, _ALONE = 1, 2, 3, 4
"""States of a request; 0: none. From decoding on, the process works on it."""

_BUCKETS = 4096
"""Groups of digests: a request looks only at processes that had one of its own group."""

_FIELDS = ("touched", "digests", "states", "buckets")
_ROWS = np.dtype(
    [
        ("touched", "<f8", (ROWS,)),
        ("digests", "<u8", (ROWS, ENTRIES)),
        ("states", "<u1", (ROWS, ENTRIES)),
        ("buckets", "<u1", (_BUCKETS, ROWS)),
    ]
)
_BUCKETS_AT = _ROWS.itemsize - _BUCKETS * ROWS
_NO_PROCESS = bytes(ROWS)

_TRIALS = 2**20
"""First slot of the locks under which suspects run."""


class Mark:
    """One request in flight, as other processes see it."""

    __slots__ = ("_requests", "_states", "_working", "alone", "digest", "index", "left")

    def __init__(
        self, requests: FatalRequests, digest: int, index: int | None, *, alone: bool
    ) -> None:
        self._requests, self._states = requests, requests.states
        self.digest = digest
        self.index = index
        """Entry of the request; None: it has none, or has it no more."""
        self.alone = alone
        """Whether the request must share its batch with no other."""
        self.left = self._working = False
        self._set(_ALONE if alone else _DECODING)

    def queue(self) -> None:
        """Note that the request waits for the program."""
        self._set(_ALONE if self.alone else _QUEUED)

    def begin(self) -> None:
        """Note that the program runs on the request. From any thread."""
        self._working = True
        self._set(_ALONE if self.alone else _COMPUTING)

    def end(self) -> None:
        """Note that the program has ended, and the process has not. From any thread."""
        self._set(_QUEUED)
        if self.alone:
            self._requests.acquit(self.digest)
        self._working = False
        if self.left:
            self._requests.free(self)

    def leave(self) -> None:
        """Note that the request is answered, or cancelled while the program still runs on it."""
        self.left = True
        if not self._working:
            self._requests.free(self)

    def _set(self, state: int) -> None:
        if (index := self.index) is not None:
            self._states[index] = state


class FatalRequests:
    """Requests in flight of the replicas of one model on this node. For one event loop."""

    def __init__(self, directory: Path, name: str) -> None:
        """``directory``: of this node; ``name``: the same for all replicas of a model."""
        self._directory, self._name = directory, name
        self._slots = ProcessSlots(directory, f"{name}.slots")
        self._memory = map_file(directory, name, _ROWS.itemsize)
        rows = np.frombuffer(self._memory, _ROWS, 1)
        self._touched, self._digests, self._states, self._buckets = (
            rows[field][0] for field in _FIELDS
        )
        # Where this process writes. Python writes through these faster than through arrays.
        self._row = self._claim()
        self._own_digests = memoryview(self._digests[self._row])
        self.states = memoryview(self._states[self._row])
        """States of this process's entries, ``[ENTRIES]``."""
        self._own_buckets = memoryview(self._buckets[:, self._row])
        self._counts = [0] * _BUCKETS
        self._vacant = deque(range(ENTRIES))
        self._entering = threading.Lock()
        self._running: set[int] = set()
        self.refused: frozenset[int] = frozenset()
        """Digests of the requests that are refused, as far as this process knows."""

    async def enter(self, digest: int) -> Mark:
        """Return the mark of a request that may run; leave it in the end.

        Waits while a suspect of the same content runs elsewhere. FatalRequestError for a request
        that has ended a process.
        """
        alone = False
        while self._is_suspect(digest):
            if alone := self._take_trial(digest):
                break
            await asyncio.sleep(POLL_S)
        if not self._vacant:
            return Mark(self, digest, None, alone=alone)
        index = self._vacant.popleft()
        self._own_digests[index] = digest
        self._touched[self._row] = time.time()
        bucket = digest % _BUCKETS
        with self._entering:
            self._counts[bucket] += 1
            self._own_buckets[bucket] = 1
        return Mark(self, digest, index, alone=alone)

    def free(self, mark: Mark) -> None:
        """Free the entry of a mark, once. From any thread."""
        with self._entering:
            index, mark.index = mark.index, None
            if index is not None:
                bucket = mark.digest % _BUCKETS
                self.states[index] = 0
                self._counts[bucket] -= 1
                if not self._counts[bucket]:
                    self._own_buckets[bucket] = 0
                self._vacant.append(index)
            alone, mark.alone = mark.alone, False
        if alone:
            self._release_trial(mark.digest)

    def acquit(self, digest: int) -> None:
        """Forget a suspect: it has run alone, and ended no process."""
        for row, column in self._evidence(digest):
            self._states[row, column] = 0

    def judge(self) -> frozenset[int]:
        """Return the digests of this node's requests that have ended a process. From any thread."""
        at_work = self._states >= _DECODING
        convicted = [
            int(self._digests[row, column])
            for row in np.flatnonzero(at_work.any(1)).tolist()
            if self._is_ended(row)
            for column in np.flatnonzero(at_work[row]).tolist()
            if self._convicts(row, column)
        ]
        return frozenset(convicted)

    # ------------------------------------------------------------------ suspects

    def _evidence(self, digest: int) -> list[tuple[int, int]]:
        """Return where ended processes left the request at work: rows and columns."""
        bucket = digest % _BUCKETS
        start = _BUCKETS_AT + bucket * ROWS
        if self._memory[start : start + ROWS] == _NO_PROCESS:  # nearly always
            return []
        return [
            (row, column)
            for row in np.flatnonzero(self._buckets[bucket]).tolist()
            if self._is_ended(row)
            for column in np.flatnonzero(self._digests[row] == np.uint64(digest)).tolist()
            if self._states[row, column] >= _DECODING
        ]

    def _is_ended(self, row: int) -> bool:
        """Whether the row is of a process that ended, less than an hour after its last request."""
        if row == self._row or self._slots.is_live(row):
            return False
        return time.time() - float(self._touched[row]) < KEPT_S

    def _is_suspect(self, digest: int) -> bool:
        """Whether a process ended with the request at work; FatalRequestError if it is to blame."""
        if digest in self.refused:
            raise _refusal(digest)
        evidence = self._evidence(digest)
        if any(self._convicts(*place) for place in evidence):
            logger.error("request %016x ended a process, and is refused", digest)
            self.refused |= {digest}
            raise _refusal(digest)
        return bool(evidence)

    def _convicts(self, row: int, column: int) -> bool:
        if self._states[row, column] == _ALONE:
            return True
        at_work = np.count_nonzero(self._states[row] >= _DECODING)
        return bool(at_work == 1) and self._crashed(row)

    def _crashed(self, row: int) -> bool:
        """Whether the row's process ended by a signal of its own code, such as SIGSEGV."""
        try:
            return (self._directory / self._crash_file(row)).stat().st_size > 0
        except OSError:
            return False

    def _take_trial(self, digest: int) -> bool:
        """Claim the only run of a suspect; False if it runs, or has been judged meanwhile."""
        # Locks of one process do not exclude each other.
        if digest in self._running or not self._slots.take(_TRIALS + digest % 2**40):
            return False
        self._running.add(digest)
        suspect = False
        try:
            suspect = self._is_suspect(digest)
        finally:
            if not suspect:
                self._release_trial(digest)
        return suspect

    def _release_trial(self, digest: int) -> None:
        self._slots.release(_TRIALS + digest % 2**40)
        self._running.discard(digest)

    # ------------------------------------------------------------------ rows

    def _claim(self) -> int:
        """Claim a row for this process: one without evidence, else the oldest of an ended process.

        ClusterError if live processes have all of them.
        """
        evidence = (self._states >= _DECODING).any(1)
        order = np.lexsort((np.where(evidence, self._touched, 0), evidence))
        row = self._slots.claim(int(row) for row in order)
        if row is None:
            raise ClusterError(
                f"more than {ROWS} replicas of one model run on this node; run fewer of them"
            )
        self._states[row] = 0
        self._digests[row] = 0
        self._buckets[:, row] = 0
        self._touched[row] = time.time()
        with contextlib.suppress(FileNotFoundError):
            (self._directory / self._crash_file(row)).unlink()
        return row

    def record_crashes(self) -> None:
        """Write the stack of a fatal signal of this process to a file beside the row.

        It replaces the standard error stream in :mod:`faulthandler`.
        """
        file = open_file(self._directory, self._crash_file(self._row))  # open until the end
        faulthandler.enable(file, all_threads=False)

    def _crash_file(self, row: int) -> str:
        return f"{self._name}.{row}.crash"


def _refusal(digest: int) -> FatalRequestError:
    return FatalRequestError(
        f"this request has ended a process of the server, and is not computed again (content "
        f"{digest:016x}); send another input, or ask the operator"
    )
