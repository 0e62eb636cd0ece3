"""Balance: the cuts are optimal."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from cluster.errors import PlanError
from cluster.parallel.balance import balance


def slowest(work: Sequence[float], crossing: Sequence[float], cuts: Sequence[int]) -> float:
    borders = [-1, *cuts, len(work) - 1]
    return max(
        sum(work[a + 1 : b + 1])
        + (crossing[a] if a >= 0 else 0)
        + (crossing[b] if b < len(crossing) else 0)
        for a, b in itertools.pairwise(borders)
    )


@pytest.mark.parametrize("seed", range(40))
def test_balance_minimizes_slowest_stage(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randint(1, 8)
    work = [chance.choice([0, 1, 2, 3.5, 7]) for _ in range(count + 1)]
    crossing = [chance.choice([0, 0.1, 0.5, 2]) for _ in range(count)]
    stages = chance.randint(1, count + 1)
    result = balance(work, crossing, stages)
    assert len(result) == stages - 1
    best = min(
        slowest(work, crossing, cuts) for cuts in itertools.combinations(range(count), stages - 1)
    )
    assert slowest(work, crossing, result) == pytest.approx(best)


def test_balance_prefers_smaller_transfer_among_equals() -> None:
    assert balance([5, 0, 5], [0.2, 0.1], 2) == (1,)


def test_balance_rejects_more_stages_than_cuts_allow() -> None:
    with pytest.raises(PlanError, match=r"needs 4 cuts, the model has 2 places.*at most 3 stages"):
        balance([1, 1, 1], [0, 0], 5)
