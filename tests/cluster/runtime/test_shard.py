"""Shard: computes frames, passes refusals on, ends on stop or disconnection, and counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from support.local_shards import InProcessTransport, connect

from cluster.errors import ProgramError, TransportError
from cluster.runtime.shard import Run, ShardCounters, ShardLoop
from cluster.runtime.transport import STOP, Frame

Started = Callable[..., tuple[ShardLoop, threading.Thread]]


@pytest.fixture
def ends() -> Iterator[list[InProcessTransport]]:
    transports = connect(3)
    yield transports
    for transport in transports:
        transport.close()


@pytest.fixture
def start(ends: list[InProcessTransport]) -> Iterator[Started]:
    """Factory of a running shard at rank 1, from rank 0 to rank 2; it ends after the test."""
    threads = []

    def started(run: Run, outcome: list | None = None) -> tuple[ShardLoop, threading.Thread]:
        shard = ShardLoop(run, ends[1], 0, [2])

        def serve() -> None:
            try:
                shard.serve()
            except Exception as error:  # noqa: BLE001 - examined by the test
                (outcome if outcome is not None else []).append(error)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return shard, threads[-1]

    yield started
    ends[0].close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def doubled(arrays: list[np.ndarray]) -> list[np.ndarray]:
    if (arrays[0] < 0).any():
        raise ProgramError("a value is negative")
    return [array * 2 for array in arrays]


def frame(number: int, value: float = 1, rows: int = 2) -> Frame:
    return Frame(number, (np.full((rows, 3), value),), None, time.time())


def test_shard_computes_in_order_and_passes_stop_on(
    ends: list[InProcessTransport], start: Started
) -> None:
    _, thread = start(doubled)
    sent = [frame(n, n) for n in range(5)]
    for request in [*sent, Frame(STOP)]:
        ends[0].send(1, request)
    for request in sent:
        result = ends[2].receive(1)
        assert (result.number, result.entered_at) == (request.number, request.entered_at)
        np.testing.assert_array_equal(result.arrays[0], request.arrays[0] * 2)
    assert ends[2].receive(1).stops
    thread.join(5)
    with pytest.raises(TransportError):
        ends[2].receive(1)  # the shard has disconnected


def test_shard_passes_refusal_on_and_continues(
    ends: list[InProcessTransport], start: Started
) -> None:
    shard, _ = start(doubled)
    for request in (frame(0, -1), frame(1, 3)):
        ends[0].send(1, request)
    refused, fine = ends[2].receive(1), ends[2].receive(1)
    assert (refused.number, refused.error, refused.arrays) == (0, "a value is negative", ())
    assert fine.arrays[0][0, 0] == 6
    assert shard.counters().micro_batches == 2


def test_shard_continues_earlier_counters(
    ends: list[InProcessTransport],
) -> None:
    before = ShardCounters(micro_batches=5, items=9, compute_s=2.0, wait_s=3.0)
    shard = ShardLoop(doubled, ends[1], 0, [2], counters=before)
    assert shard.counters() == before
    ends[0].send(1, frame(0))
    ends[0].send(1, Frame(STOP))
    shard.serve()
    counters = shard.counters()
    assert (counters.micro_batches, counters.items) == (6, 11)
    assert counters.compute_s > 2.0
    assert counters.wait_s > 3.0


def test_shard_passes_earlier_error_on_without_computing(
    ends: list[InProcessTransport], start: Started
) -> None:
    shard, _ = start(doubled)
    ends[0].send(1, Frame(7, (), "refused before"))
    result = ends[2].receive(1)
    assert (result.number, result.error, result.arrays) == (7, "refused before", ())
    assert shard.counters().micro_batches == 0


def test_unsupported_output_is_error_of_its_batch(
    ends: list[InProcessTransport], start: Started
) -> None:
    start(lambda arrays: [arrays[0].T])
    ends[0].send(1, frame(0))
    assert "(not C-contiguous) cannot be sent" in str(ends[2].receive(1).error)


def test_lost_source_ends_shard_and_its_targets(
    ends: list[InProcessTransport], start: Started
) -> None:
    outcome: list[Exception] = []
    _, thread = start(doubled, outcome)
    ends[0].close()
    thread.join(5)
    assert isinstance(outcome[0], TransportError)
    with pytest.raises(TransportError):
        ends[2].receive(1)


def test_unexpected_program_error_ends_shard(
    ends: list[InProcessTransport], start: Started
) -> None:
    def broken(arrays: list[np.ndarray]) -> list[np.ndarray]:
        raise RuntimeError("a member of the reduction is unavailable")

    outcome: list[Exception] = []
    _, thread = start(broken, outcome)
    for number in range(4):
        ends[0].send(1, frame(number))
    thread.join(5)
    assert "member of the reduction" in str(outcome[0])
    with pytest.raises(TransportError):
        ends[2].receive(1)


def test_shard_prefetches_at_most_one_frame(ends: list[InProcessTransport], start: Started) -> None:
    free, fetched = threading.Semaphore(0), []
    receive = ends[1].receive
    ends[1].receive = lambda source: (fetched.append(1), receive(source))[1]  # type: ignore

    def held(arrays: list[np.ndarray]) -> list[np.ndarray]:
        assert free.acquire(timeout=5)
        return arrays

    start(held)
    for number in range(5):
        ends[0].send(1, frame(number))
    time.sleep(0.1)
    assert len(fetched) == 2
    for _ in range(5):
        free.release()
        ends[2].receive(1)


def test_figures_separate_idle_time_from_bubbles(
    ends: list[InProcessTransport], start: Started
) -> None:
    def slow(arrays: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(0.05)
        return arrays

    started = time.monotonic()
    shard, _ = start(slow)
    time.sleep(0.2)  # nothing to do: idle, but no bubble
    assert shard.counters().wait_s > 0.1  # counted before a frame arrives
    ends[0].send(1, frame(0, rows=4))
    ends[2].receive(1)
    late = frame(1)
    time.sleep(0.2)  # a frame spends this long in earlier stages: a bubble
    ends[0].send(1, late)
    ends[2].receive(1)
    counters = shard.counters()
    assert (counters.micro_batches, counters.items) == (2, 6)
    # The threads start some milliseconds after the clock of this one.
    assert counters.compute_s >= 0.1
    assert counters.wait_s >= 0.38
    assert 0.18 <= counters.bubble_s <= counters.wait_s - 0.18
    busy_s = counters.compute_s + counters.wait_s + counters.transfer_s
    assert busy_s <= time.monotonic() - started
