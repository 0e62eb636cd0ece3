"""Whatever a request or its caller does, the batcher's mates and thread live on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest
from doubler import Doubler, answer, occupy, row, until

from cluster.errors import ProgramError, RequestError
from cluster.runtime.batcher import Answer, Batcher

Make = Callable[..., Batcher]


def test_a_bad_batch_mate_fails_alone(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8)

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
    make_batcher: Make,
) -> None:
    def broken(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if arrays[0][0, 0] == 0:
            raise KeyError("not a kind of failure anyone foresaw")
        return [arrays[0]]

    batcher = make_batcher(broken)
    with pytest.raises(ProgramError, match="foresaw"):
        asyncio.run(answer(batcher, row(0)))
    assert asyncio.run(answer(batcher, row(5))).outputs[0][0, 0] == 5


def test_a_cancelled_caller_is_dropped_before_it_is_computed(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8)

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


def test_a_caller_cancelled_while_computing_does_not_end_the_loop(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program)

    async def scenario() -> None:
        for _ in range(3):
            gone = await occupy(batcher, program)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            program.free.set()
            assert (await answer(batcher, row(4))).outputs[0][0, 0] == 8

    asyncio.run(scenario())
    assert batcher.alive


def test_the_mates_of_a_caller_cancelled_while_computing_get_their_answers(
    make_batcher: Make,
) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8)

    async def scenario() -> None:
        first = await occupy(batcher, program)
        tasks = [asyncio.create_task(answer(batcher, row(value))) for value in (2, 3, 4)]
        await asyncio.sleep(0.01)
        program.hold_next()
        await first
        await until(lambda: len(program.batches) == 2)
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)
        program.free.set()
        assert (await tasks[0]).outputs[0][0, 0] == 4
        assert (await tasks[2]).outputs[0][0, 0] == 8

    asyncio.run(scenario())
    assert program.sizes == [1, 3]


def test_a_caller_that_gives_up_at_every_moment_never_ends_the_loop(make_batcher: Make) -> None:
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(0.001)
        return [arrays[0] * 2]

    batcher = make_batcher(run, max_batch_size=4)

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


def test_a_loop_that_ends_during_a_run_does_not_end_the_thread(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program)

    async def leave() -> None:
        (await occupy(batcher, program)).cancel()

    asyncio.run(leave())
    program.free.set()
    assert asyncio.run(answer(batcher, row(2))).outputs[0][0, 0] == 4


def test_a_request_larger_than_a_batch_is_refused(make_batcher: Make) -> None:
    program = Doubler()
    with pytest.raises(RequestError, match="holds 9 items, this model takes at most 8"):
        asyncio.run(answer(make_batcher(program, max_batch_size=8), row(1, rows=9)))
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
    make_batcher: Make, arrays: list[np.ndarray], given: str
) -> None:
    with pytest.raises(RequestError, match=rf"expected input float32\[-1, 2\].*got {given}"):
        asyncio.run(answer(make_batcher(Doubler()), arrays))


def test_closing_finishes_the_run_under_way_fails_what_waits_and_ends_the_thread(
    make_batcher: Make,
) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=2)

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


def test_a_closed_batcher_refuses_at_once_and_closes_again_in_peace(make_batcher: Make) -> None:
    batcher = make_batcher(Doubler())
    batcher.close()
    batcher.close()
    with pytest.raises(ProgramError, match="shutting down"):
        asyncio.run(answer(batcher, row(1)))


def test_a_program_that_only_fails_has_not_finished_anything(make_batcher: Callable) -> None:
    """Else a replica that answers nothing but errors would pass for healthy while it is asked."""

    def broken(arrays: list[np.ndarray]) -> list[np.ndarray]:
        raise ProgramError("no")

    batcher = make_batcher(broken)
    before = batcher.last_finished
    with pytest.raises(ProgramError, match="no"):
        asyncio.run(answer(batcher, row(1)))
    assert batcher.last_finished == before
