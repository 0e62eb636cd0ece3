"""Several batches of one batcher under way at once, as a pipelined program takes them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from doubler import INPUT, answer, row, until, whole

from cluster.config.serving import Batching
from cluster.errors import GroupLostError, ProgramError
from cluster.runtime.batcher import Answer, Batcher
from cluster.runtime.shard_group import LocalShardGroup

Make = Callable[..., Batcher]


@pytest.fixture
def make_lanes() -> Iterator[Make]:
    """``make_lanes(run, lanes, **batching)``: batchers that are closed after the test.

    ``run`` is :func:`doubler.whole`, or a group's ``run_timed``.
    """
    made: list[Batcher] = []

    def make(run: Callable, lanes: int, **settings: object) -> Batcher:
        made.append(Batcher(run, (INPUT,), Batching.model_validate(settings), lanes))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Held:
    """A program that holds every batch until it is let, and knows how many it has at once."""

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
def test_as_many_batches_are_under_way_as_there_are_lanes(make_lanes: Make, lanes: int) -> None:
    program = Held()
    batcher = make_lanes(whole(program), lanes, max_batch_size=2)

    async def scenario() -> None:
        asked = [asyncio.create_task(answer(batcher, row(value, rows=2))) for value in range(8)]
        await until(lambda: program.inside == lanes)
        await asyncio.sleep(0.02)
        program.free.set()
        for value, found in enumerate(await asyncio.gather(*asked)):
            assert found.outputs[0].tolist() == [[2 * value] * 2] * 2

    asyncio.run(scenario())
    assert program.most == lanes


def test_lanes_do_not_share_their_batch_buffers(make_lanes: Make) -> None:
    def slow(arrays: list[np.ndarray]) -> list[np.ndarray]:
        before = arrays[0].copy()
        time.sleep(0.003)
        np.testing.assert_array_equal(arrays[0], before)
        return [arrays[0] * 2]

    batcher = make_lanes(whole(slow), 4, max_batch_size=4, buckets=[4])

    async def scenario() -> None:
        found = await asyncio.gather(*(answer(batcher, row(value)) for value in range(200)))
        for value, each in enumerate(found):
            assert each.outputs[0].tolist() == [[2 * value] * 2]

    asyncio.run(scenario())


def test_a_pipeline_behind_lanes_answers_everyone_and_is_filled(make_lanes: Make) -> None:
    def stage(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if (arrays[0] < 0).any():
            raise ProgramError("a value is negative")
        time.sleep(0.002)
        return [arrays[0] * 2]

    group = LocalShardGroup([[stage], [stage]], max_inflight=2, timeout_s=10)
    batcher = make_lanes(group.run_timed, 2, max_batch_size=4)

    async def scenario() -> None:
        asked = [answer(batcher, row(-1 if value == 50 else value)) for value in range(100)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        for value, each in enumerate(found):
            if value == 50:  # its batch mates are run one by one, and answered
                assert isinstance(each, ProgramError)
            else:
                assert isinstance(each, Answer)
                assert each.outputs[0].tolist() == [[4 * value] * 2]
                assert len(each.stage_s) == 2
                assert min(each.stage_s) >= 0.002
                assert sum(each.stage_s) <= each.compute_s

    asyncio.run(scenario())
    batcher.close()
    group.close()


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_lost_group_reaches_every_caller_as_it_is_and_nothing_is_tried_again(
    make_lanes: Make, lanes: int
) -> None:
    runs = []
    free = threading.Event()

    def lost(arrays: list[np.ndarray]) -> list[np.ndarray]:
        runs.append(len(arrays[0]))
        assert free.wait(20)
        raise GroupLostError("a shard is gone")

    batcher = make_lanes(whole(lost), lanes, max_batch_size=8)

    async def scenario() -> None:
        asked = [asyncio.create_task(answer(batcher, row(value))) for value in range(24)]
        await until(lambda: len(runs) == lanes)
        free.set()
        for found in await asyncio.gather(*asked, return_exceptions=True):
            assert type(found) is GroupLostError
            assert str(found) == "a shard is gone"

    asyncio.run(scenario())
    assert sum(runs) == 24
    assert len(runs) < 24
    assert batcher.alive


def test_an_abandoned_request_frees_its_place_and_its_memory(make_lanes: Make) -> None:
    program = Held()
    batcher = make_lanes(whole(program), 1, max_batch_size=4)

    async def scenario() -> None:
        first = asyncio.create_task(answer(batcher, row(100)))
        await until(lambda: program.inside == 1)
        goes = [asyncio.create_task(answer(batcher, row(value))) for value in (1, 2, 3)]
        stays = [asyncio.create_task(answer(batcher, row(value))) for value in (4, 5, 6, 7)]
        await asyncio.sleep(0.02)
        for each in goes:
            each.cancel()
        await asyncio.gather(*goes, return_exceptions=True)
        program.free.set()
        await asyncio.gather(first, *stays)

    asyncio.run(scenario())
    assert [batch[:, 0].tolist() for batch in program.batches] == [[100], [4, 5, 6, 7]]


@pytest.mark.parametrize("lanes", [1, 3])
def test_callers_that_give_up_at_every_moment_never_end_a_lane(
    make_lanes: Make, lanes: int
) -> None:
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(0.001)
        return [arrays[0] * 2]

    batcher = make_lanes(whole(run), lanes, max_batch_size=4)

    async def impatient(value: int) -> None:
        try:
            found = await asyncio.wait_for(batcher.submit(row(value)), value % 7 / 1000)
            assert found.outputs[0][0, 0] == 2 * value
        except TimeoutError:
            pass

    async def scenario() -> None:
        await asyncio.gather(*(impatient(value) for value in range(300)))
        assert (await answer(batcher, row(1))).outputs[0][0, 0] == 2

    asyncio.run(scenario())
    assert batcher.alive


def test_closing_ends_all_lanes_busy_and_idle(make_lanes: Make) -> None:
    program = Held()
    batcher = make_lanes(whole(program), 3, max_batch_size=1)

    async def scenario() -> None:
        running = [asyncio.create_task(answer(batcher, row(value))) for value in range(2)]
        await until(lambda: program.inside == 2)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        assert not batcher.alive  # the idle lane has ended
        program.free.set()
        await closing
        assert [(await each).outputs[0][0, 0] for each in running] == [0, 2]

    asyncio.run(scenario())


def test_no_lanes_are_refused() -> None:
    with pytest.raises(ValueError, match="lanes=0: expected 1 or more"):
        Batcher(lambda arrays: arrays, (INPUT,), Batching(), lanes=0)
