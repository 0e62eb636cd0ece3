"""The train step learns, with each loss and optimizer, and takes odd batch sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cluster.compression.measure import accuracy
from cluster.compression.train import cosine, cross_entropy, mean_squared_error, train
from cluster.compression.work import Work
from cluster.config.recipe import Train

Bench = Callable[..., Any]


def share_right(work: Work, samples: Any) -> float:
    def run(arrays: list[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return work.module(torch.from_numpy(arrays[0])).numpy()

    return accuracy(run, samples, None).share


@pytest.mark.parametrize(
    ("loss", "optimizer", "learning_rate"),
    [("cross_entropy", "sgd", 0.05), ("cross_entropy", "adamw", 0.003), ("mse", "adamw", 0.003)],
)
def test_a_model_learns(bench: Bench, loss: str, optimizer: str, learning_rate: float) -> None:
    made = bench()
    before = share_right(made.work, made.test)
    step = Train(
        kind="train", epochs=2, loss=loss, optimizer=optimizer, learning_rate=learning_rate
    )
    trained = train(made.work, step, made.context)
    assert before < 0.3
    assert share_right(trained, made.test) > 0.75
    assert not trained.module.training
    assert made.lines[-1].startswith("train    ████████████████████ 46/46")
    assert "epoch 2/2 loss" in made.lines[-1]
    torch.testing.assert_close(trained.weights(), trained.module.state_dict())


def test_the_same_seed_gives_the_same_weights(bench: Bench) -> None:
    step = Train(kind="train", epochs=1)
    weights = []
    for _ in range(2):
        made = bench(model="linear")
        weights.append(train(made.work, step, made.context).weights())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


@pytest.mark.parametrize(("samples", "batch_size"), [(9, 8), (5, 1), (1, 64)])
def test_no_batch_size_is_left_untrained(bench: Bench, samples: int, batch_size: int) -> None:
    made = bench(model="linear", data={"source": "digits", "limit": max(samples, 1)})
    before = made.work.weights()
    train(made.work, Train(kind="train", epochs=1, batch_size=batch_size), made.context)
    updates = math.ceil(samples / batch_size)
    assert f"{updates}/{updates}" in made.lines[-1]
    assert not torch.equal(made.work.weights()["1.weight"], before["1.weight"])


def test_a_single_sample_left_over_does_not_stop_batch_normalization(bench: Bench) -> None:
    made = bench(data={"source": "digits", "limit": 17})
    trained = train(made.work, Train(kind="train", epochs=1, batch_size=8), made.context)
    assert all(torch.isfinite(tensor).all() for tensor in trained.weights().values())


def test_the_learning_rate_warms_up_and_follows_a_cosine_to_nothing() -> None:
    factors = [cosine(update, total=100, warmup=10) for update in range(100)]
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[99] < 0.001
    assert cosine(0, total=1, warmup=0) == 1


def test_losses_are_what_their_formulas_say() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    right = [math.exp(2) / (math.exp(2) + 1), 1 / (1 + math.e)]
    entropy = -sum(math.log(share) for share in right) / 2
    assert cross_entropy(logits, labels).item() == pytest.approx(entropy)
    # Both classes are off by as much when there are two.
    assert mean_squared_error(logits, labels).item() == pytest.approx(
        sum((1 - share) ** 2 for share in right) / 2
    )
