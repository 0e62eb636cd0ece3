"""Batcher: batched requests get the same answers as single ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest
from doubler import INPUT, Doubler, answer, occupy, row, submitted, whole

from cluster.config.serving import Batching
from cluster.errors import RequestError
from cluster.runtime.batcher import Batcher
from cluster.runtime.priority_queue import Priority
from cluster.tensors import TensorSpec

Make = Callable[..., Batcher]


def test_batcher_answers_request(make_batcher: Make) -> None:
    result = asyncio.run(answer(make_batcher(Doubler()), row(3, rows=2)))
    np.testing.assert_array_equal(result.outputs[0], np.full((2, 2), 6))
    assert result.batch_size == 2
    assert result.queue_s >= 0
    assert result.compute_s > 0


def test_requests_during_run_form_next_batch(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8)

    async def scenario() -> None:
        first = await occupy(batcher, program)
        tasks = [asyncio.create_task(answer(batcher, row(i))) for i in range(20)]
        await submitted()
        program.free.set()
        await first
        for i, result in enumerate(await asyncio.gather(*tasks)):
            np.testing.assert_array_equal(result.outputs[0], [[2 * i, 2 * i]])
            assert result.batch_size == (8 if i < 16 else 4)

    asyncio.run(scenario())
    assert program.sizes == [1, 8, 8, 4]


def test_requests_for_one_item_per_run_are_not_joined() -> None:
    program = Doubler()
    settings = Batching(max_batch_size=8, buckets=(4, 8), max_wait_ms=1000)
    batcher = Batcher(whole(program), (INPUT,), settings, one_by_one=True)

    async def scenario() -> None:
        first = await occupy(batcher, program)
        tasks = [asyncio.create_task(answer(batcher, row(i, rows=2))) for i in range(3)]
        await submitted()
        program.free.set()
        await first
        for i, result in enumerate(await asyncio.gather(*tasks)):
            np.testing.assert_array_equal(result.outputs[0], np.full((2, 2), 2 * i))
            assert result.batch_size == 2

    asyncio.run(scenario())
    batcher.close()
    assert program.sizes == [1, 2, 2, 2]


class Noted:
    """Mark that notes when the program ran on its request."""

    def __init__(self, program: Doubler, *, alone: bool) -> None:
        self.alone = alone
        self.runs: list[tuple[int, int]] = []
        self._program = program

    def begin(self) -> None:
        self.runs.append((len(self._program.batches), 0))

    def end(self) -> None:
        self.runs[-1] = (self.runs[-1][0], len(self._program.batches))


def test_request_that_must_run_alone_shares_no_batch(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8)
    marks = [Noted(program, alone=alone) for alone in (False, True, False, True)]

    async def scenario() -> None:
        first = await occupy(batcher, program)
        tasks = [
            asyncio.create_task(batcher.submit(row(value), mark=mark))
            for value, mark in enumerate(marks, 2)
        ]
        await submitted()
        program.free.set()
        await first
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert [batch[:, 0].tolist() for batch in program.batches] == [[1], [2], [3], [4], [5]]
    assert [mark.runs for mark in marks] == [[(n, n + 1)] for n in range(1, 5)]


def test_interactive_request_overtakes_batch_requests(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=1)
    order: list[int] = []

    async def ask(value: int, priority: Priority) -> None:
        result = await batcher.submit(row(value), priority)
        order.append(int(result.outputs[0][0, 0]) // 2)

    async def scenario() -> None:
        first = await occupy(batcher, program)
        tasks = [asyncio.create_task(ask(value, Priority.BATCH)) for value in (1, 2)]
        await submitted()
        tasks.append(asyncio.create_task(ask(3, Priority.INTERACTIVE)))
        await submitted()
        program.free.set()
        await asyncio.gather(first, *tasks)

    asyncio.run(scenario())
    assert order == [3, 1, 2]


def test_requests_get_their_own_rows_in_order(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8)
    requests = [np.random.default_rng(n).random((n, 2)).astype(np.float32) for n in (3, 1, 4)]
    overflow = np.full((5, 2), 7, np.float32)  # exceeds the batch

    async def scenario() -> None:
        first = await occupy(batcher, program)
        tasks = [asyncio.create_task(answer(batcher, [a])) for a in [*requests, overflow]]
        await submitted()
        program.free.set()
        await first
        for array, result in zip([*requests, overflow], await asyncio.gather(*tasks), strict=True):
            np.testing.assert_array_equal(result.outputs[0], array * 2)

    asyncio.run(scenario())
    assert program.sizes == [1, 8, 5]


def test_batch_stays_within_maximum_size(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8)

    async def scenario() -> None:
        first = await occupy(batcher, program)
        tasks = [asyncio.create_task(answer(batcher, row(n, rows=n))) for n in (5, 5, 5, 3)]
        await submitted()
        program.free.set()
        await first
        for n, result in zip((5, 5, 5, 3), await asyncio.gather(*tasks), strict=True):
            np.testing.assert_array_equal(result.outputs[0], np.full((n, 2), 2 * n))

    asyncio.run(scenario())
    assert program.sizes == [1, 5, 5, 8]


def test_batch_is_padded_with_zeros_to_bucket(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8, buckets=[2, 8])

    async def scenario() -> None:
        full = await answer(batcher, row(9, rows=7))  # leaves its rows in the buffer
        assert full.batch_size == 7
        for rows in (1, 2, 3):
            result = await answer(batcher, row(rows, rows))
            np.testing.assert_array_equal(result.outputs[0], np.full((rows, 2), 2 * rows))
            assert result.batch_size == rows

    asyncio.run(scenario())
    assert program.sizes == [8, 2, 2, 8]
    assert program.batches[1].tolist() == [[1, 1], [0, 0]]
    assert program.batches[3].tolist() == [[3, 3]] * 3 + [[0, 0]] * 5


def test_idle_batcher_waits_at_most_max_wait_ms(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8, max_wait_ms=400)

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
    assert took_s >= 0.39


def test_queued_request_is_not_delayed_again(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8, max_wait_ms=1000)

    async def scenario() -> float:
        first = await occupy(batcher, program)
        waiting = asyncio.create_task(answer(batcher, row(2)))
        await asyncio.sleep(1.05)
        freed = time.perf_counter()
        program.free.set()
        await first
        await waiting
        return time.perf_counter() - freed

    assert asyncio.run(scenario()) < 0.9
    assert program.sizes == [1, 1]


def test_full_batch_runs_without_delay(make_batcher: Make) -> None:
    batcher = make_batcher(Doubler(), max_batch_size=2, max_wait_ms=1000)
    started = time.perf_counter()
    asyncio.run(answer(batcher, row(1, rows=2)))
    assert time.perf_counter() - started < 0.9


def test_idle_batcher_without_wait_runs_at_once(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8)

    async def scenario() -> None:
        assert (await answer(batcher, row(1))).batch_size == 1
        assert (await answer(batcher, row(2))).batch_size == 1

    asyncio.run(scenario())
    assert program.sizes == [1, 1]


def test_rows_of_several_inputs_stay_together(make_batcher: Make) -> None:
    specs = [INPUT, TensorSpec(name="mask", datatype="INT64", shape=(-1, 1))]
    sizes = []

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(arrays[0]))
        time.sleep(0.02)
        assert [array.dtype for array in arrays] == [np.float32, np.int64]
        return [arrays[0] * arrays[1], arrays[1]]

    batcher = make_batcher(run, specs, max_batch_size=8, buckets=[4, 8])

    async def scenario() -> None:
        results = await asyncio.gather(
            *(answer(batcher, [*row(i), np.full((1, 1), 10 * i)]) for i in range(1, 8))
        )
        for i, result in enumerate(results, start=1):
            assert result.outputs[0].tolist() == [[10 * i * i] * 2]
            assert result.outputs[1].tolist() == [[10 * i]]
        with pytest.raises(RequestError, match="equal numbers of items"):
            await answer(batcher, [*row(1, rows=2), np.ones((1, 1), np.int64)])

    asyncio.run(scenario())
    assert max(sizes) > 1


@pytest.mark.parametrize("kind", ["unaligned", "strided"])
def test_unusable_arrays_are_copied(make_batcher: Make, kind: str) -> None:
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

    result = asyncio.run(answer(make_batcher(run), [array]))
    np.testing.assert_array_equal(result.outputs[0], values * 2)


def test_answers_survive_next_batch(make_batcher: Make) -> None:
    batcher = make_batcher(Doubler(), max_batch_size=8, buckets=[8])

    async def scenario() -> None:
        first = await answer(batcher, row(1))
        await answer(batcher, row(2))
        assert first.outputs[0].tolist() == [[2, 2]]

    asyncio.run(scenario())


def test_batcher_records_time_of_last_batch(make_batcher: Make) -> None:
    batcher = make_batcher(Doubler())
    before = time.monotonic()
    asyncio.run(answer(batcher, row(1)))
    assert before <= batcher.last_finished <= time.monotonic()
