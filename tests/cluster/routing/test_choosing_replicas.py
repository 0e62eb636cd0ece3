"""Choice of replicas, share and verdict of a canary, and the cache of answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.routing.answer_cache import AnswerCache, content_key
from cluster.routing.canary import Judge
from cluster.routing.replicas import Replica, choose
from cluster.routing.sampling import takes_part


def serve(replicas: dict[str, tuple[Replica, float]], seconds: float, every: float) -> list[str]:
    """Simulate sequential requests for ``seconds``; return the address chosen for each."""
    addresses, now = [], 0.0
    while now < seconds:
        chosen = choose([replica for replica, _ in replicas.values()], now)
        assert chosen is not None
        took = replicas[chosen.address][1]
        chosen.took(took, now + took)
        addresses.append(chosen.address)
        now += max(every, took)
    return addresses


def test_slow_replica_is_chosen_rarely_but_not_never() -> None:
    replicas = {name: (Replica(name), took) for name, took in (("fast", 0.01), ("slow", 0.1))}
    addresses = serve(replicas, seconds=120, every=0.02)
    share = addresses.count("slow") / len(addresses)
    assert 0 < share < 0.01


def test_recovered_replica_is_chosen_again() -> None:
    first, second = Replica("first"), Replica("second")
    first.took(0.01, 0)
    second.took(0.5, 0)
    assert choose([first, second], 1) is first
    for moment in range(2, 60):
        chosen = choose([first, second], moment)
        assert chosen is not None
        chosen.took(0.01, moment)
    assert choose([first, second], 60.0) is second or second.latency_s(60.0) < 0.02


def test_replica_with_fewer_requests_is_chosen() -> None:
    busy, idle = Replica("busy"), Replica("idle")
    for replica in (busy, idle):
        replica.took(0.01, 0)
    busy.ongoing = 3
    assert choose([busy, idle], 0) is idle
    assert choose([busy, idle], 0, but={"idle"}) is busy
    assert choose([busy], 0, but={"busy"}) is None
    assert choose([], 0) is None


def test_new_replicas_share_first_requests_equally() -> None:
    replicas = [Replica(str(number)) for number in range(3)]
    for _ in range(9):
        chosen = choose(replicas, 0)
        assert chosen is not None
        chosen.ongoing += 1
    assert [replica.ongoing for replica in replicas] == [3, 3, 3]


def test_cancelled_call_never_lowers_latency() -> None:
    replica = Replica("one")
    replica.took(0.1, 0)
    replica.waited(0.01, 0)
    assert replica.latency_s(0) == pytest.approx(0.1)
    replica.waited(2.0, 0)
    assert replica.latency_s(0) == 2.0


def test_id_always_takes_same_side_with_configured_share() -> None:
    ids = [f"request-{number}" for number in range(5000)]
    chosen = {one for one in ids if takes_part(one, 0.2, "canary m")}
    assert 0.17 < len(chosen) / len(ids) < 0.23
    assert chosen == {one for one in ids if takes_part(one, 0.2, "canary m")}
    # A larger share contains the smaller one; another purpose selects independently.
    assert chosen < {one for one in ids if takes_part(one, 0.3, "canary m")}
    other = {one for one in ids if takes_part(one, 0.2, "compare m")}
    assert 0.1 < len(chosen & other) / len(chosen) < 0.3
    assert not any(takes_part(one, 0, "canary m") for one in ids)
    assert all(takes_part(one, 1, "canary m") for one in ids)


@given(st.lists(st.booleans(), min_size=1, max_size=300), st.sampled_from([0.0, 0.05, 0.5]))
def test_canary_verdict_covers_window_and_is_final(outcomes: list[bool], limit: float) -> None:
    judge = Judge(limit, None, window=50, min_requests=10)
    worst = False
    for count in range(1, len(outcomes) + 1):
        judge.answered(outcomes[count - 1])
        last = outcomes[max(0, count - 50) : count]
        worst = worst or (len(last) >= 10 and last.count(False) > limit * len(last))
        assert (judge.verdict is not None) == worst


def test_canary_disagreement_is_counted_in_items() -> None:
    judge = Judge(1.0, 0.1, window=50, min_requests=3)
    judge.compared(10, 5)
    judge.compared(10, 0)
    assert judge.verdict is None  # too few requests
    judge.compared(10, 0)
    assert judge.verdict is not None
    assert "5 of the last 30 items" in judge.verdict
    unlimited = Judge(1.0, None, window=50, min_requests=1)
    unlimited.compared(10, 10)
    assert unlimited.verdict is None


def test_cache_key_depends_on_content_only() -> None:
    one = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert content_key([one]) == content_key([np.asfortranarray(one)])
    others = [one + 1, one.reshape(3, 2), one.astype(np.float64), one.view(np.int32)]
    assert len({content_key([array]) for array in [one, *others]}) == 5
    assert content_key([one, one]) != content_key([one])


def test_cache_stays_within_bytes_and_evicts_least_recent() -> None:
    answers = AnswerCache(capacity_bytes=100)
    arrays = [np.full(10, value, np.float32) for value in range(4)]  # 40 bytes each
    answers.put(0, b"a", [arrays[0]])
    answers.put(0, b"b", [arrays[1]])
    assert answers.get(0, b"a") is not None  # now b is the oldest
    answers.put(0, b"c", [arrays[2]])
    assert answers.bytes == 80
    assert answers.get(0, b"b") is None
    np.testing.assert_array_equal((answers.get(0, b"a") or ())[0], arrays[0])
    answers.put(0, b"huge", [np.zeros(1000, np.float32)])
    assert answers.get(0, b"huge") is None
    answers.put(0, b"a", [arrays[3]])
    assert answers.bytes == 80


def test_cache_is_cleared_when_models_change() -> None:
    answers = AnswerCache(capacity_bytes=100)
    answers.put(0, b"a", [np.zeros(4, np.float32)])
    assert answers.get(1, b"a") is None
    assert answers.bytes == 0
    # Requested before the models changed, answered after.
    answers.put(0, b"a", [np.zeros(4, np.float32)])
    assert answers.get(1, b"a") is None


def test_replica_that_fails_fast_is_avoided() -> None:
    broken, sound = Replica("broken"), Replica("sound")
    addresses = []
    for step in range(200):
        now = step / 100
        chosen = choose([broken, sound], now)
        assert chosen is not None
        addresses.append(chosen.address)
        if chosen is broken:
            chosen.failed(now)
        else:
            chosen.took(0.01, now)
    assert addresses.count("broken") == 1


def test_new_replica_gets_one_request_until_it_answers() -> None:
    new, known = Replica("new"), Replica("known")
    known.took(0.005, 0.0)
    addresses = []
    for _ in range(100):
        chosen = choose([new, known], 0.1)
        assert chosen is not None
        chosen.ongoing += 1
        addresses.append(chosen.address)
    assert addresses.count("new") == 1
    new.ongoing -= 1
    new.took(0.005, 0.1)
    assert choose([new, known], 0.1) is new
