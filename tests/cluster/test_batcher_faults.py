"""Batcher under faults: other requests and the thread survive every failure."""

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


def test_bad_request_fails_alone_in_its_batch(make_batcher: Make) -> None:
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


def test_program_error_reaches_caller_and_thread_survives(
    make_batcher: Make,
) -> None:
    def broken(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if arrays[0][0, 0] == 0:
            raise KeyError("an unforeseen failure")
        return [arrays[0]]

    batcher = make_batcher(broken)
    with pytest.raises(ProgramError, match="unforeseen"):
        asyncio.run(answer(batcher, row(0)))
    assert asyncio.run(answer(batcher, row(5))).outputs[0][0, 0] == 5


def test_refusal_of_input_reaches_its_caller_alone(
    make_batcher: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if (arrays[0] < 0).any():
            raise RequestError("index -1 is out of range")
        return [arrays[0]]

    batcher = make_batcher(refusing, max_batch_size=8, max_wait_ms=50)

    async def scenario() -> list[Answer | BaseException]:
        tasks = [answer(batcher, row(value)) for value in (1, -1, 2)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    good, bad, fine = asyncio.run(scenario())
    assert isinstance(good, Answer)
    assert isinstance(fine, Answer)
    assert isinstance(bad, RequestError)
    assert str(bad) == "index -1 is out of range"
    assert not caplog.records, "a client's mistake is no error of the server"


def test_cancelled_request_is_dropped_before_computation(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=8)

    async def scenario() -> None:
        first = await occupy(batcher, program)
        pending, cancelled = (asyncio.create_task(answer(batcher, row(v))) for v in (2, 3))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        await asyncio.sleep(0.01)
        program.free.set()
        await first
        assert (await pending).outputs[0][0, 0] == 4

    asyncio.run(scenario())
    assert [batch[:, 0].tolist() for batch in program.batches] == [[1], [2]]


def test_thread_survives_cancellation_during_computation(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program)

    async def scenario() -> None:
        for _ in range(3):
            cancelled = await occupy(batcher, program)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            program.free.set()
            assert (await answer(batcher, row(4))).outputs[0][0, 0] == 8

    asyncio.run(scenario())
    assert batcher.alive


def test_rest_of_batch_is_answered_after_cancellation(
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


def test_thread_survives_cancellation_at_any_moment(make_batcher: Make) -> None:
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(0.001)
        return [arrays[0] * 2]

    batcher = make_batcher(run, max_batch_size=4)

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


def test_thread_survives_end_of_event_loop_during_run(make_batcher: Make) -> None:
    program = Doubler()
    batcher = make_batcher(program)

    async def leave() -> None:
        (await occupy(batcher, program)).cancel()

    asyncio.run(leave())
    program.free.set()
    assert asyncio.run(answer(batcher, row(2))).outputs[0][0, 0] == 4


def test_batcher_rejects_request_larger_than_batch(make_batcher: Make) -> None:
    program = Doubler()
    with pytest.raises(RequestError, match="holds 9 items, this model takes at most 8"):
        asyncio.run(answer(make_batcher(program, max_batch_size=8), row(1, rows=9)))
    assert program.batches == []


@pytest.mark.parametrize(
    ("arrays", "actual"),
    [
        ([np.zeros((1, 2))], r"float64\[1, 2\]"),
        ([np.zeros((1, 1), np.float32)], r"float32\[1, 1\]"),
        ([np.zeros(2, np.float32)], r"float32\[2\]"),
        ([np.zeros((1, 2), np.float32)] * 2, r"float32\[1, 2\], float32\[1, 2\]"),
        ([], "no arrays"),
    ],
)
def test_batcher_rejects_mismatched_arrays(
    make_batcher: Make, arrays: list[np.ndarray], actual: str
) -> None:
    with pytest.raises(RequestError, match=rf"expected input float32\[-1, 2\].*got {actual}"):
        asyncio.run(answer(make_batcher(Doubler()), arrays))


def test_close_finishes_run_fails_pending_and_ends_thread(
    make_batcher: Make,
) -> None:
    program = Doubler()
    batcher = make_batcher(program, max_batch_size=2)

    async def scenario() -> None:
        running = await occupy(batcher, program)
        pending = [asyncio.create_task(answer(batcher, row(i, rows=1))) for i in range(5)]
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        program.free.set()
        await closing
        assert (await running).outputs[0][0, 0] == 2
        for error in await asyncio.gather(*pending, return_exceptions=True):
            assert isinstance(error, ProgramError)
            assert "shutting down" in str(error)

    asyncio.run(scenario())
    assert program.sizes == [1]
    assert not batcher.alive


def test_closed_batcher_rejects_requests_and_second_close_works(make_batcher: Make) -> None:
    batcher = make_batcher(Doubler())
    batcher.close()
    batcher.close()
    with pytest.raises(ProgramError, match="shutting down"):
        asyncio.run(answer(batcher, row(1)))


def test_failed_batches_do_not_count_as_finished(make_batcher: Callable) -> None:
    """A replica that answers only errors must not pass for healthy."""

    def broken(arrays: list[np.ndarray]) -> list[np.ndarray]:
        raise ProgramError("no")

    batcher = make_batcher(broken)
    before = batcher.last_finished
    with pytest.raises(ProgramError, match="no"):
        asyncio.run(answer(batcher, row(1)))
    assert batcher.last_finished == before
