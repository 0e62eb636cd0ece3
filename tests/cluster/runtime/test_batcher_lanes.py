"""Batcher with several lanes: concurrent batches, as for a pipelined program."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from doubler import INPUT, answer, row, until, whole
from support.local_shards import LocalShardGroup

from cluster.config.serving import Batching
from cluster.errors import GroupLostError, ProgramError
from cluster.runtime.batcher import Answer, Batcher

Make = Callable[..., Batcher]


@pytest.fixture
def make_lanes() -> Iterator[Make]:
    """Factory ``make_lanes(run, lanes, **batching)`` of batchers, closed after the test.

    ``run`` is :func:`doubler.whole`, or a group's ``run_timed``.
    """
    batchers: list[Batcher] = []

    def make(run: Callable, lanes: int, **settings: object) -> Batcher:
        batchers.append(Batcher(run, (INPUT,), Batching.model_validate(settings), lanes))
        return batchers[-1]

    yield make
    for batcher in batchers:
        batcher.close()


class Blocked:
    """Program that blocks every batch until released, and counts concurrent batches."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.batches: list[np.ndarray] = []
        self.inside = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.batches.append(arrays[0].copy())
        assert self.free.wait(20)
        with self._lock:
            self.inside -= 1
        return [arrays[0] * 2]


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_batcher_runs_one_batch_per_lane(make_lanes: Make, lanes: int) -> None:
    program = Blocked()
    batcher = make_lanes(whole(program), lanes, max_batch_size=2)

    async def scenario() -> None:
        tasks = [asyncio.create_task(answer(batcher, row(value, rows=2))) for value in range(8)]
        await until(lambda: program.inside == lanes)
        await asyncio.sleep(0.02)
        program.free.set()
        for value, result in enumerate(await asyncio.gather(*tasks)):
            assert result.outputs[0].tolist() == [[2 * value] * 2] * 2

    asyncio.run(scenario())
    assert program.most == lanes


def test_lanes_do_not_share_batch_buffers(make_lanes: Make) -> None:
    def slow(arrays: list[np.ndarray]) -> list[np.ndarray]:
        before = arrays[0].copy()
        time.sleep(0.003)
        np.testing.assert_array_equal(arrays[0], before)
        return [arrays[0] * 2]

    batcher = make_lanes(whole(slow), 4, max_batch_size=4, buckets=[4])

    async def scenario() -> None:
        results = await asyncio.gather(*(answer(batcher, row(value)) for value in range(200)))
        for value, result in enumerate(results):
            assert result.outputs[0].tolist() == [[2 * value] * 2]

    asyncio.run(scenario())


def test_lanes_fill_pipeline_and_answer_every_request(make_lanes: Make) -> None:
    def stage(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if (arrays[0] < 0).any():
            raise ProgramError("a value is negative")
        time.sleep(0.002)
        return [arrays[0] * 2]

    group = LocalShardGroup([[stage], [stage]], max_inflight=2, timeout_s=10)
    batcher = make_lanes(group.run_timed, 2, max_batch_size=4)

    async def scenario() -> None:
        requests = [answer(batcher, row(-1 if value == 50 else value)) for value in range(100)]
        results = await asyncio.gather(*requests, return_exceptions=True)
        for value, result in enumerate(results):
            if value == 50:  # the rest of its batch is retried one by one, and answered
                assert isinstance(result, ProgramError)
            else:
                assert isinstance(result, Answer)
                assert result.outputs[0].tolist() == [[4 * value] * 2]
                assert len(result.stage_s) == 2
                assert min(result.stage_s) >= 0.002
                assert sum(result.stage_s) <= result.compute_s

    asyncio.run(scenario())
    batcher.close()
    group.close()


@pytest.mark.parametrize("lanes", [1, 2])
def test_lost_group_fails_all_requests_without_retry(make_lanes: Make, lanes: int) -> None:
    runs = []
    free = threading.Event()

    def lost(arrays: list[np.ndarray]) -> list[np.ndarray]:
        runs.append(len(arrays[0]))
        assert free.wait(20)
        raise GroupLostError("a shard is unavailable")

    batcher = make_lanes(whole(lost), lanes, max_batch_size=8)

    async def scenario() -> None:
        tasks = [asyncio.create_task(answer(batcher, row(value))) for value in range(24)]
        await until(lambda: len(runs) == lanes)
        free.set()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert type(error) is GroupLostError
            assert str(error) == "a shard is unavailable"

    asyncio.run(scenario())
    assert sum(runs) == 24
    assert len(runs) < 24
    assert batcher.alive


def test_cancelled_request_releases_its_place_and_memory(make_lanes: Make) -> None:
    program = Blocked()
    batcher = make_lanes(whole(program), 1, max_batch_size=4)

    async def scenario() -> None:
        first = asyncio.create_task(answer(batcher, row(100)))
        await until(lambda: program.inside == 1)
        cancelled = [asyncio.create_task(answer(batcher, row(value))) for value in (1, 2, 3)]
        remaining = [asyncio.create_task(answer(batcher, row(value))) for value in (4, 5, 6, 7)]
        await asyncio.sleep(0.02)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        program.free.set()
        await asyncio.gather(first, *remaining)

    asyncio.run(scenario())
    assert [batch[:, 0].tolist() for batch in program.batches] == [[100], [4, 5, 6, 7]]


@pytest.mark.parametrize("lanes", [1, 3])
def test_lanes_survive_cancellation_at_any_moment(make_lanes: Make, lanes: int) -> None:
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(0.001)
        return [arrays[0] * 2]

    batcher = make_lanes(whole(run), lanes, max_batch_size=4)

    async def impatient(value: int) -> None:
        try:
            result = await asyncio.wait_for(batcher.submit(row(value)), value % 7 / 1000)
            assert result.outputs[0][0, 0] == 2 * value
        except TimeoutError:
            pass

    async def scenario() -> None:
        await asyncio.gather(*(impatient(value) for value in range(300)))
        assert (await answer(batcher, row(1))).outputs[0][0, 0] == 2

    asyncio.run(scenario())
    assert batcher.alive


def test_close_ends_busy_and_idle_lanes(make_lanes: Make) -> None:
    program = Blocked()
    batcher = make_lanes(whole(program), 3, max_batch_size=1)

    async def scenario() -> None:
        running = [asyncio.create_task(answer(batcher, row(value))) for value in range(2)]
        await until(lambda: program.inside == 2)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        assert not batcher.alive  # the idle lane has ended
        program.free.set()
        await closing
        assert [(await task).outputs[0][0, 0] for task in running] == [0, 2]

    asyncio.run(scenario())


def test_batcher_rejects_zero_lanes() -> None:
    with pytest.raises(ValueError, match="lanes=0: expected 1 or more"):
        Batcher(lambda arrays: arrays, (INPUT,), Batching(), lanes=0)
