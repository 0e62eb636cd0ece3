"""Many micro-batches through one pipeline: each gets its own answer, or all learn of its end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cluster.errors import GroupLostError, ProgramError
from cluster.runtime.shard import Run
from cluster.runtime.shard_group import LocalShardGroup

Make = Callable[..., LocalShardGroup]


@pytest.fixture
def make_group() -> Iterator[Make]:
    """``make_group(runs, max_inflight, timeout_s)``: groups that are closed after the test."""
    made: list[LocalShardGroup] = []

    def make(
        runs: list[list[Run]], max_inflight: int = 2, timeout_s: float = 10
    ) -> LocalShardGroup:
        made.append(LocalShardGroup(runs, max_inflight, timeout_s))
        return made[-1]

    yield make
    for group in made:
        group.close()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("shard-")]
    assert not left


class Gate:
    """A stage that adds 1 once it is let, and knows how many it saw."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.seen = 0

    def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        self.seen += 1
        assert self.free.wait(20)
        return [array + 1 for array in arrays]


def plus_one(arrays: list[np.ndarray]) -> list[np.ndarray]:
    if (arrays[0] < 0).any():
        raise ProgramError("a value is negative")
    return [array + 1 for array in arrays]


def batch(value: float, rows: int = 2) -> list[np.ndarray]:
    return [np.full((rows, 3), value, np.float32)]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


@pytest.mark.parametrize(("stages", "tensor_ranks"), [(1, 1), (2, 1), (3, 2), (1, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_every_caller_gets_its_own_answer(
    make_group: Make, stages: int, tensor_ranks: int, seed: int
) -> None:
    chance = random.Random(seed)

    def stage(arrays: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(chance.random() / 1000)
        return plus_one(arrays)

    max_inflight = chance.randint(1, 5)
    group = make_group([[stage] * tensor_ranks for _ in range(stages)], max_inflight)

    def ask(value: int) -> None:
        rows = chance.randint(1, 9)
        if value % 10 == 3:
            with pytest.raises(ProgramError, match="negative"):
                group.run(batch(-value - stages, rows))
            return
        (found,) = group.run(batch(value, rows))
        np.testing.assert_array_equal(found, np.full((rows, 3), value + stages))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(60)))
    assert group.broken is None
    assert group.inflight == 0
    # Without a reduction nothing makes the other tensor ranks keep up.
    until(
        lambda: (
            [each.micro_batches for each in group.figures()[:tensor_ranks]] == [60] * tensor_ranks
        )
    )


def test_tensor_ranks_get_the_micro_batches_in_one_order(make_group: Make) -> None:
    orders: list[list[float]] = [[], [], []]

    def rank(order: list[float]) -> Run:
        def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
            order.append(float(arrays[0][0, 0]))
            return arrays

        return run

    group = make_group([[rank(order) for order in orders]], max_inflight=8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: group.run(batch(value)), range(200)))
    until(lambda: all(len(order) == 200 for order in orders))
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize("max_inflight", [1, 2, 3, 5])
def test_the_pipeline_is_filled_and_never_overfilled(make_group: Make, max_inflight: int) -> None:
    gate = Gate()
    group = make_group([[plus_one], [gate]], max_inflight)
    most = 0
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(group.run, batch(value)) for value in range(20)]
        until(lambda: group.figures()[0].micro_batches == max_inflight)
        time.sleep(0.05)
        assert group.figures()[0].micro_batches == max_inflight
        assert group.inflight == max_inflight
        gate.free.set()
        while not all(each.done() for each in asked):
            most = max(most, group.inflight)
    assert most <= max_inflight
    assert [each.result()[0][0, 0] for each in asked] == [value + 2 for value in range(20)]


def test_stages_compute_different_micro_batches_at_the_same_time(make_group: Make) -> None:
    def slow(arrays: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(0.05)
        return arrays

    group = make_group([[slow], [slow], [slow]], max_inflight=3)
    started = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda value: group.run(batch(value)), range(12)))
    assert time.monotonic() - started < 0.05 * 12 * 3 * 0.6


def test_a_refusal_is_of_one_micro_batch_alone(make_group: Make) -> None:
    group = make_group([[plus_one], [plus_one]], max_inflight=3)
    with ThreadPoolExecutor(3) as pool:
        good, bad, fine = (pool.submit(group.run, batch(value)) for value in (1, -5, 2))
        assert good.result()[0][0, 0] == 3
        assert fine.result()[0][0, 0] == 4
        with pytest.raises(ProgramError, match="negative"):
            bad.result()
    with pytest.raises(ProgramError, match="cannot travel"):
        group.run([np.zeros((4, 4))[:, ::2]])
    assert group.inflight == 0
    assert group.broken is None


def test_failing_wakes_everyone_at_once_and_refuses_what_comes(make_group: Make) -> None:
    gate = Gate()
    group = make_group([[plus_one], [gate]], max_inflight=2, timeout_s=30)
    took: list[float] = []

    def ask(value: int) -> None:
        with pytest.raises(GroupLostError, match=r"node down; another replica.*request again"):
            group.run(batch(value))
        took.append(time.monotonic() - failed_at)

    with ThreadPoolExecutor(5) as pool:  # two in the pipeline, three before it
        asked = [pool.submit(ask, value) for value in range(5)]
        until(lambda: gate.seen == 1 and group.inflight == 2)
        time.sleep(0.02)
        failed_at = time.monotonic()
        group.fail("node down")
        for each in asked:
            each.result(1)
    assert max(took) < 0.2
    group.fail("a later reason")
    assert group.broken == "node down"
    with pytest.raises(GroupLostError, match="node down"):
        group.run(batch(1))
    gate.free.set()


def test_a_micro_batch_that_takes_too_long_breaks_the_group(make_group: Make) -> None:
    gate = Gate()
    group = make_group([[gate]], max_inflight=2, timeout_s=0.2)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(group.run, batch(value)) for value in range(4)]
        started = time.monotonic()
        for each in asked:
            with pytest.raises(GroupLostError, match=r"took longer than 0.2 s"):
                each.result(2)
    assert time.monotonic() - started < 1
    gate.free.set()


def test_whatever_stops_the_sending_breaks_the_group(
    make_group: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make_group([[plus_one]], timeout_s=30)

    def full(target: int, frame: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(group._transport, "send", full)
    started = time.monotonic()
    with pytest.raises(GroupLostError, match="Too many open files"):
        group.run(batch(1))
    assert time.monotonic() - started < 1


def test_a_shard_that_ends_breaks_the_group(make_group: Make) -> None:
    def broken(arrays: list[np.ndarray]) -> list[np.ndarray]:
        raise RuntimeError("not a refusal")

    group = make_group([[plus_one], [broken], [plus_one]], max_inflight=2, timeout_s=30)
    started = time.monotonic()
    with pytest.raises(GroupLostError, match="a shard of this replica was lost"):
        group.run(batch(1))
    assert time.monotonic() - started < 1
    assert group.broken


def test_closing_answers_what_is_in_flight_and_refuses_the_rest(make_group: Make) -> None:
    gate = Gate()
    group = make_group([[plus_one], [gate]], max_inflight=2)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(group.run, batch(value)) for value in range(3)]
        until(lambda: group.inflight == 2)
        closing = pool.submit(group.close)
        until(lambda: any(each.done() for each in asked))  # the one without a place
        (refused,) = (each for each in asked if each.done())
        with pytest.raises(GroupLostError, match="shutting down"):
            refused.result()
        gate.free.set()
        closing.result(5)
        assert sum(each.exception(1) is None for each in asked) == 2
    with pytest.raises(GroupLostError, match="closed"):
        group.run(batch(1))
    group.close()


def test_answers_and_inputs_share_no_memory(make_group: Make) -> None:
    group = make_group([[lambda arrays: arrays]])
    given = batch(1)
    (found,) = group.run(given)
    given[0][:] = 7
    assert (found == 1).all()


def test_stages_of_unequal_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"stages of \[2, 1\] tensor ranks"):
        LocalShardGroup([[plus_one] * 2, [plus_one]], 1)
    with pytest.raises(ValueError, match="expected one stage or"):
        LocalShardGroup([], 1)
