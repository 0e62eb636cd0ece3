"""Shard group: every micro-batch gets its answer, or every caller an error."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.local_shards import LocalShardGroup
from support.wait import SOON_S, until

from cluster.errors import GroupLostError, ProgramError, RequestError
from cluster.runtime.shard import Run

Make = Callable[..., LocalShardGroup]


@pytest.fixture
def make_group() -> Iterator[Make]:
    """Factory ``make_group(runs, max_inflight, timeout_s)`` of groups, closed after the test."""
    groups: list[LocalShardGroup] = []

    def make(
        runs: list[list[Run]], max_inflight: int = 2, timeout_s: float = 10
    ) -> LocalShardGroup:
        groups.append(LocalShardGroup(runs, max_inflight, timeout_s))
        return groups[-1]

    yield make
    for group in groups:
        group.close()
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("shard-")]
    assert not threads


class Gate:
    """Stage that adds 1 once released, and counts its calls."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.calls = 0

    def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        self.calls += 1
        assert self.free.wait(20)
        return [array + 1 for array in arrays]


def plus_one(arrays: list[np.ndarray]) -> list[np.ndarray]:
    if (arrays[0] < 0).any():
        raise ProgramError("a value is negative")
    return [array + 1 for array in arrays]


def batch(value: float, rows: int = 2) -> list[np.ndarray]:
    return [np.full((rows, 3), value, np.float32)]


@pytest.mark.parametrize(("stages", "tensor_ranks"), [(1, 1), (2, 1), (3, 2), (1, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_callers_get_their_own_answers(
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
        (output,) = group.run(batch(value, rows))
        np.testing.assert_array_equal(output, np.full((rows, 3), value + stages))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(60)))
    assert group.broken is None
    assert group.inflight == 0
    # Without a reduction the other tensor ranks may lag behind.
    until(
        lambda: (
            [counters.micro_batches for counters in group.counters()[:tensor_ranks]]
            == [60] * tensor_ranks
        )
    )


def test_tensor_ranks_receive_micro_batches_in_same_order(make_group: Make) -> None:
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
def test_group_fills_pipeline_up_to_max_inflight(make_group: Make, max_inflight: int) -> None:
    gate = Gate()
    group = make_group([[plus_one], [gate]], max_inflight)
    peak = 0
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(group.run, batch(value)) for value in range(20)]
        until(lambda: group.counters()[0].micro_batches == max_inflight)
        time.sleep(0.05)
        assert group.counters()[0].micro_batches == max_inflight
        assert group.inflight == max_inflight
        gate.free.set()
        while not all(future.done() for future in futures):
            peak = max(peak, group.inflight)
    assert peak <= max_inflight
    assert [future.result()[0][0, 0] for future in futures] == [value + 2 for value in range(20)]


def test_stages_compute_concurrently(make_group: Make) -> None:
    counting = threading.Lock()
    computing = peak = 0

    def slow(arrays: list[np.ndarray]) -> list[np.ndarray]:
        nonlocal computing, peak
        with counting:
            computing += 1
            peak = max(peak, computing)
        time.sleep(0.05)
        with counting:
            computing -= 1
        return arrays

    group = make_group([[slow], [slow], [slow]], max_inflight=3)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda value: group.run(batch(value)), range(12)))
    assert peak == 3


def test_refusal_of_input_is_no_failure_of_program(make_group: Make) -> None:
    def refusing(arrays: list[np.ndarray]) -> list[np.ndarray]:
        raise RequestError("index 7 is out of range")

    group = make_group([[refusing], [plus_one]], max_inflight=1)
    with pytest.raises(RequestError, match="index 7 is out of range"):
        group.run(batch(1))


def test_refusal_affects_one_micro_batch_only(make_group: Make) -> None:
    group = make_group([[plus_one], [plus_one]], max_inflight=3)
    with ThreadPoolExecutor(3) as pool:
        good, bad, fine = (pool.submit(group.run, batch(value)) for value in (1, -5, 2))
        assert good.result()[0][0, 0] == 3
        assert fine.result()[0][0, 0] == 4
        with pytest.raises(ProgramError, match="negative"):
            bad.result()
    with pytest.raises(ProgramError, match="cannot be sent"):
        group.run([np.zeros((4, 4))[:, ::2]])
    assert group.inflight == 0
    assert group.broken is None


def test_fail_ends_all_waits_and_rejects_later_calls(make_group: Make) -> None:
    gate = Gate()
    group = make_group([[plus_one], [gate]], max_inflight=2, timeout_s=30)
    took: list[float] = []

    def ask(value: int) -> None:
        with pytest.raises(GroupLostError, match=r"node down; send the request again"):
            group.run(batch(value))
        took.append(time.monotonic() - failed_at)

    with ThreadPoolExecutor(5) as pool:  # two in the pipeline, three waiting for a place
        futures = [pool.submit(ask, value) for value in range(5)]
        until(lambda: gate.calls == 1 and group.inflight == 2)
        time.sleep(0.02)
        failed_at = time.monotonic()
        group.fail("node down")
        for future in futures:
            future.result(SOON_S)
    assert max(took) < SOON_S
    group.fail("a later reason")
    assert group.broken == "node down"
    with pytest.raises(GroupLostError, match="node down"):
        group.run(batch(1))
    gate.free.set()


def test_micro_batch_timeout_breaks_group(make_group: Make) -> None:
    gate = Gate()
    group = make_group([[gate]], max_inflight=2, timeout_s=0.2)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(group.run, batch(value)) for value in range(4)]
        started = time.monotonic()
        for future in futures:
            with pytest.raises(GroupLostError, match=r"took longer than 0.2 s"):
                future.result(SOON_S)
    assert time.monotonic() - started < SOON_S
    gate.free.set()


def test_send_error_breaks_group(make_group: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_group([[plus_one]], timeout_s=30)

    def full(target: int, frame: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(group._transport, "send", full)
    started = time.monotonic()
    with pytest.raises(GroupLostError, match="Too many open files"):
        group.run(batch(1))
    assert time.monotonic() - started < SOON_S


def test_ended_shard_breaks_group(make_group: Make) -> None:
    def broken(arrays: list[np.ndarray]) -> list[np.ndarray]:
        raise RuntimeError("not a refusal")

    group = make_group([[plus_one], [broken], [plus_one]], max_inflight=2, timeout_s=30)
    started = time.monotonic()
    with pytest.raises(GroupLostError, match="a shard of this replica is unavailable"):
        group.run(batch(1))
    assert time.monotonic() - started < SOON_S
    assert group.broken


def test_close_answers_requests_in_flight_and_rejects_others(make_group: Make) -> None:
    gate = Gate()
    group = make_group([[plus_one], [gate]], max_inflight=2)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(group.run, batch(value)) for value in range(3)]
        until(lambda: group.inflight == 2)
        closing = pool.submit(group.close)
        until(lambda: any(future.done() for future in futures))  # the request without a place
        (refused,) = (future for future in futures if future.done())
        with pytest.raises(GroupLostError, match="shutting down"):
            refused.result()
        gate.free.set()
        closing.result(5)
        assert sum(future.exception(1) is None for future in futures) == 2
    with pytest.raises(GroupLostError, match="closed"):
        group.run(batch(1))
    group.close()


def test_outputs_and_inputs_share_no_memory(make_group: Make) -> None:
    group = make_group([[lambda arrays: arrays]])
    inputs = batch(1)
    (output,) = group.run(inputs)
    inputs[0][:] = 7
    assert (output == 1).all()


def test_local_group_rejects_unequal_tensor_ranks() -> None:
    with pytest.raises(ValueError, match=r"stages of \[2, 1\] tensor ranks"):
        LocalShardGroup([[plus_one] * 2, [plus_one]], 1)
    with pytest.raises(ValueError, match="expected one stage or"):
        LocalShardGroup([], 1)
