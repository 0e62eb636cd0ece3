"""Requests joined into batches come out as if each had been run alone, whatever their mates do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from cluster.config.serving import Batching
from cluster.errors import ProgramError, RequestError
from cluster.runtime.batcher import Answer, Batcher
from cluster.tensors import TensorSpec

INPUT = TensorSpec(name="input", datatype="FP32", shape=(-1, 2))
WAIT_S = 20
"""No awaited answer takes this long: a test that would hang fails instead."""


class Doubler:
    """A program that answers twice its input, remembers its batches and can be held up."""

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        self.batches.append(arrays[0].copy())
        self.entered.set()
        assert self.free.wait(WAIT_S)
        if (arrays[0] < 0).any():
            raise ProgramError("a value is negative")
        return [arrays[0] * 2]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


Make = Callable[..., Batcher]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes batchers that are closed after the test."""
    made: list[Batcher] = []

    def batcher(
        run: Callable, inputs: Sequence[TensorSpec] = (INPUT,), **settings: object
    ) -> Batcher:
        made.append(Batcher(run, inputs, Batching.model_validate(settings)))
        return made[-1]

    yield batcher
    for each in made:
        each.close()


def row(value: float, rows: int = 1) -> list[np.ndarray]:
    return [np.full((rows, 2), value, np.float32)]


async def answer(batcher: Batcher, arrays: list[np.ndarray]) -> Answer:
    return await asyncio.wait_for(batcher.submit(arrays), WAIT_S)


async def until(true: Callable[[], bool]) -> None:
    for _ in range(int(WAIT_S / 0.005)):
        if true():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not happen")


async def occupy(batcher: Batcher, program: Doubler) -> asyncio.Task[Answer]:
    """Hold the compute thread up in a run, so that what comes next has to queue."""
    program.entered.clear()
    program.free.clear()
    task = asyncio.create_task(answer(batcher, row(1)))
    await until(program.entered.is_set)
    return task


def test_a_request_is_answered(make: Make) -> None:
    found = asyncio.run(answer(make(Doubler()), row(3, rows=2)))
    np.testing.assert_array_equal(found.outputs[0], np.full((2, 2), 6))
    assert found.batch_size == 2
    assert found.queue_s >= 0
    assert found.compute_s > 0


def test_what_arrives_during_a_run_makes_the_next_batch(make: Make) -> None:
    program = Doubler()
    batcher = make(program, max_batch_size=8)

    async def scenario() -> None:
        first = await occupy(batcher, program)
        others = [asyncio.create_task(answer(batcher, row(i))) for i in range(20)]
        await asyncio.sleep(0.01)
        program.free.set()
        await first
        for i, found in enumerate(await asyncio.gather(*others)):
            np.testing.assert_array_equal(found.outputs[0], [[2 * i, 2 * i]])
            assert found.batch_size == (8 if i < 16 else 4)

    asyncio.run(scenario())
    assert program.sizes == [1, 8, 8, 4]


def test_requests_of_many_rows_keep_their_own_in_order(make: Make) -> None:
    program = Doubler()
    batcher = make(program, max_batch_size=8)
    requests = [np.random.default_rng(n).random((n, 2)).astype(np.float32) for n in (3, 1, 4)]
    overflow = np.full((5, 2), 7, np.float32)  # does not fit with them any more

    async def scenario() -> None:
        first = await occupy(batcher, program)
        tasks = [asyncio.create_task(answer(batcher, [a])) for a in [*requests, overflow]]
        await asyncio.sleep(0.01)
        program.free.set()
        await first
        for array, found in zip([*requests, overflow], await asyncio.gather(*tasks), strict=True):
            np.testing.assert_array_equal(found.outputs[0], array * 2)

    asyncio.run(scenario())
    assert program.sizes == [1, 8, 5]


def test_a_batch_never_exceeds_the_maximum_when_sizes_do_not_add_up(make: Make) -> None:
    program = Doubler()
    batcher = make(program, max_batch_size=8)

    async def scenario() -> None:
        first = await occupy(batcher, program)
        tasks = [asyncio.create_task(answer(batcher, row(n, rows=n))) for n in (5, 5, 5, 3)]
        await asyncio.sleep(0.01)
        program.free.set()
        await first
        for n, found in zip((5, 5, 5, 3), await asyncio.gather(*tasks), strict=True):
            np.testing.assert_array_equal(found.outputs[0], np.full((n, 2), 2 * n))

    asyncio.run(scenario())
    assert program.sizes == [1, 5, 5, 8]


def test_a_bad_batch_mate_fails_alone(make: Make) -> None:
    program = Doubler()
    batcher = make(program, max_batch_size=8)

    async def scenario() -> None:
        first = await occupy(batcher, program)
        tasks = [asyncio.create_task(answer(batcher, row(value))) for value in (1, -1, 2)]
        await asyncio.sleep(0.01)
        program.free.set()
        await first
        good, bad, fine = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(good, Answer)
        assert isinstance(fine, Answer)
        assert good.outputs[0][0, 0] == 2
        assert fine.outputs[0][0, 0] == 4
        assert isinstance(bad, ProgramError)
        assert "negative" in str(bad)

    asyncio.run(scenario())
    assert batcher.alive


def test_any_failure_of_the_program_reaches_the_caller_and_the_thread_lives_on(
    make: Make,
) -> None:
    def broken(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if arrays[0][0, 0] == 0:
            raise KeyError("not a kind of failure anyone foresaw")
        return [arrays[0]]

    batcher = make(broken)
    with pytest.raises(ProgramError, match="foresaw"):
        asyncio.run(answer(batcher, row(0)))
    assert asyncio.run(answer(batcher, row(5))).outputs[0][0, 0] == 5


def test_a_cancelled_caller_is_dropped_before_it_is_computed(make: Make) -> None:
    program = Doubler()
    batcher = make(program, max_batch_size=8)

    async def scenario() -> None:
        first = await occupy(batcher, program)
        stays, goes = (asyncio.create_task(answer(batcher, row(v))) for v in (2, 3))
        await asyncio.sleep(0.01)
        goes.cancel()
        await asyncio.sleep(0.01)
        program.free.set()
        await first
        assert (await stays).outputs[0][0, 0] == 4

    asyncio.run(scenario())
    assert [batch[:, 0].tolist() for batch in program.batches] == [[1], [2]]


def test_a_caller_cancelled_while_computing_does_not_end_the_loop(make: Make) -> None:
    program = Doubler()
    batcher = make(program)

    async def scenario() -> None:
        for _ in range(3):
            gone = await occupy(batcher, program)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            program.free.set()
            assert (await answer(batcher, row(4))).outputs[0][0, 0] == 8

    asyncio.run(scenario())
    assert batcher.alive


def test_a_caller_that_gives_up_at_every_moment_never_ends_the_loop(make: Make) -> None:
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(0.001)
        return [arrays[0] * 2]

    batcher = make(run, max_batch_size=4)

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


def test_a_loop_that_ends_during_a_run_does_not_end_the_thread(make: Make) -> None:
    program = Doubler()
    batcher = make(program)

    async def leave() -> None:
        (await occupy(batcher, program)).cancel()

    asyncio.run(leave())
    program.free.set()
    assert asyncio.run(answer(batcher, row(2))).outputs[0][0, 0] == 4


def test_batches_are_padded_with_zeros_to_their_bucket(make: Make) -> None:
    program = Doubler()
    batcher = make(program, max_batch_size=8, buckets=[2, 8])

    async def scenario() -> None:
        full = await answer(batcher, row(9, rows=8))  # leaves its rows in the buffer
        assert full.batch_size == 8
        for rows in (1, 2, 3):
            found = await answer(batcher, row(rows, rows))
            np.testing.assert_array_equal(found.outputs[0], np.full((rows, 2), 2 * rows))
            assert found.batch_size == rows

    asyncio.run(scenario())
    assert program.sizes == [8, 2, 2, 8]
    assert program.batches[1].tolist() == [[1, 1], [0, 0]]
    assert program.batches[3].tolist() == [[3, 3]] * 3 + [[0, 0]] * 5


def test_an_idle_batcher_waits_for_mates_and_no_longer_than_told(make: Make) -> None:
    program = Doubler()
    batcher = make(program, max_batch_size=8, max_wait_ms=400)

    async def scenario() -> float:
        started = time.perf_counter()
        early = asyncio.create_task(answer(batcher, row(1)))
        await asyncio.sleep(0.1)
        late = asyncio.create_task(answer(batcher, row(2)))
        for task in (early, late):
            assert (await task).batch_size == 2
        return time.perf_counter() - started

    took_s = asyncio.run(scenario())
    assert program.sizes == [2]
    assert 0.39 <= took_s < 2


def test_a_full_batch_does_not_wait(make: Make) -> None:
    batcher = make(Doubler(), max_batch_size=2, max_wait_ms=1000)
    started = time.perf_counter()
    asyncio.run(answer(batcher, row(1, rows=2)))
    assert time.perf_counter() - started < 0.9


def test_without_a_wait_an_idle_batcher_runs_at_once(make: Make) -> None:
    program = Doubler()
    batcher = make(program, max_batch_size=8)

    async def scenario() -> None:
        assert (await answer(batcher, row(1))).batch_size == 1
        assert (await answer(batcher, row(2))).batch_size == 1

    asyncio.run(scenario())
    assert program.sizes == [1, 1]


def test_a_request_larger_than_a_batch_is_refused(make: Make) -> None:
    program = Doubler()
    with pytest.raises(RequestError, match="holds 9 items, this model takes at most 8"):
        asyncio.run(answer(make(program, max_batch_size=8), row(1, rows=9)))
    assert program.batches == []


@pytest.mark.parametrize(
    ("arrays", "given"),
    [
        ([np.zeros((1, 2))], r"float64\[1, 2\]"),
        ([np.zeros((1, 1), np.float32)], r"float32\[1, 1\]"),
        ([np.zeros(2, np.float32)], r"float32\[2\]"),
        ([np.zeros((1, 2), np.float32)] * 2, r"float32\[1, 2\], float32\[1, 2\]"),
        ([], "nothing"),
    ],
)
def test_arrays_that_are_not_the_inputs_are_refused(
    make: Make, arrays: list[np.ndarray], given: str
) -> None:
    with pytest.raises(RequestError, match=rf"expected input float32\[-1, 2\].*got {given}"):
        asyncio.run(answer(make(Doubler()), arrays))


def test_several_inputs_stay_together(make: Make) -> None:
    specs = [INPUT, TensorSpec(name="mask", datatype="INT64", shape=(-1, 1))]
    sizes = []

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(arrays[0]))
        time.sleep(0.02)
        assert [array.dtype for array in arrays] == [np.float32, np.int64]
        return [arrays[0] * arrays[1], arrays[1]]

    batcher = make(run, specs, max_batch_size=8, buckets=[4, 8])

    async def scenario() -> None:
        found = await asyncio.gather(
            *(answer(batcher, [*row(i), np.full((1, 1), 10 * i)]) for i in range(1, 8))
        )
        for i, each in enumerate(found, start=1):
            assert each.outputs[0].tolist() == [[10 * i * i] * 2]
            assert each.outputs[1].tolist() == [[10 * i]]
        with pytest.raises(RequestError, match="one number of items"):
            await answer(batcher, [*row(1, rows=2), np.ones((1, 1), np.int64)])

    asyncio.run(scenario())
    assert max(sizes) > 1


@pytest.mark.parametrize("kind", ["unaligned", "strided"])
def test_arrays_the_program_cannot_borrow_are_copied(make: Make, kind: str) -> None:
    values = np.arange(4, dtype=np.float32).reshape(2, 2)
    if kind == "unaligned":
        array = np.frombuffer(b"-" + values.tobytes(), np.float32, offset=1).reshape(2, 2)
        assert not array.flags.aligned
    else:
        array = np.asfortranarray(values)
        assert not array.flags.c_contiguous

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        assert arrays[0].flags.aligned
        assert arrays[0].flags.c_contiguous
        return [arrays[0] * 2]

    found = asyncio.run(answer(make(run), [array]))
    np.testing.assert_array_equal(found.outputs[0], values * 2)


def test_answers_are_not_overwritten_by_the_next_batch(make: Make) -> None:
    batcher = make(Doubler(), max_batch_size=8, buckets=[8])

    async def scenario() -> None:
        first = await answer(batcher, row(1))
        await answer(batcher, row(2))
        assert first.outputs[0].tolist() == [[2, 2]]

    asyncio.run(scenario())


def test_closing_finishes_the_run_under_way_fails_what_waits_and_ends_the_thread(
    make: Make,
) -> None:
    program = Doubler()
    batcher = make(program, max_batch_size=2)

    async def scenario() -> None:
        running = await occupy(batcher, program)
        waiting = [asyncio.create_task(answer(batcher, row(i, rows=1))) for i in range(5)]
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        program.free.set()
        await closing
        assert (await running).outputs[0][0, 0] == 2
        for found in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(found, ProgramError)
            assert "shutting down" in str(found)

    asyncio.run(scenario())
    assert program.sizes == [1]
    assert not batcher.alive


def test_a_closed_batcher_refuses_at_once_and_closes_again_in_peace(make: Make) -> None:
    batcher = make(Doubler())
    batcher.close()
    batcher.close()
    with pytest.raises(ProgramError, match="shutting down"):
        asyncio.run(answer(batcher, row(1)))


def test_when_it_last_finished_is_known(make: Make) -> None:
    batcher = make(Doubler())
    before = time.monotonic()
    asyncio.run(answer(batcher, row(1)))
    assert before <= batcher.last_finished <= time.monotonic()
