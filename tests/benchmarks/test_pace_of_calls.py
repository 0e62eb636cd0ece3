"""Latency and throughput of calls, without the start and the end of a feeding."""

from __future__ import annotations

import time

import pytest

from benchmarks.harness.errors import BenchmarkError
from benchmarks.parallelism import pace


def test_rate_leaves_out_the_start_and_the_end() -> None:
    # Two in flight: four warm-up calls, then one each second, then the last, alone.
    ended = [0.0, 9.0, 9.1, 9.2, 10.0, 11.0, 12.0, 13.0, 13.1]
    assert pace.rate(ended, items=4, in_flight=2) == pytest.approx(4.0)
    with pytest.raises(BenchmarkError, match="more --seconds"):
        pace.rate(ended[:4], items=4, in_flight=2)


def test_several_calls_are_in_flight_at_once() -> None:
    rate = pace.items_per_s(lambda: time.sleep(0.02), items=3, in_flight=4, seconds=0.3)
    assert 150 < rate <= 650  # 4 × 3 items in 20 ms each; one thread alone reaches 150


def test_error_of_a_call_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        pace.items_per_s(lambda: 1 / 0, items=1, in_flight=3, seconds=0.1)
