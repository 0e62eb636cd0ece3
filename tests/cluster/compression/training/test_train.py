"""Train step: it learns with each loss, optimizer and schedule, also with odd batch sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cluster.compression.training.train import recover, train
from cluster.config.steps import Recovery, Train

Bench = Callable[..., Any]


def share_right(module: torch.nn.Module, samples: Any) -> float:
    arrays, labels = samples.batch(range(len(samples)))
    with torch.inference_mode():
        logits = module(*map(torch.from_numpy, arrays)).numpy()
    return float((logits.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize(
    ("loss", "optimizer", "learning_rate", "schedule", "precision"),
    [
        ("cross_entropy", "sgd", 0.05, "cosine", "float32"),
        pytest.param("cross_entropy", "adamw", 0.003, "linear", "bf16", marks=pytest.mark.slow),
        pytest.param("mse", "adamw", 0.003, "constant", "float32", marks=pytest.mark.slow),
    ],
)
def test_training_improves_accuracy(
    bench: Bench, loss: str, optimizer: str, learning_rate: float, schedule: str, precision: str
) -> None:
    initial = bench()
    before = share_right(initial.work.module, initial.test)
    step = Train(
        kind="train",
        epochs=2,
        loss=loss,
        optimizer=optimizer,
        learning_rate=learning_rate,
        schedule=schedule,
        precision=precision,
    )
    computed_in = set()
    hook = initial.work.module[3].register_forward_hook(
        lambda _module, _inputs, output: computed_in.add(output.dtype)
    )
    trained = train(initial.work, step, initial.job)
    hook.remove()
    assert computed_in == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert {parameter.dtype for parameter in trained.module.parameters()} == {torch.float32}
    assert before < 0.3
    assert share_right(trained.module, initial.test) > 0.75
    assert not trained.module.training
    updates = 2 * math.ceil(len(initial.job.train) / 64)
    assert initial.lines[-1].startswith(f"train    ████████████████████ {updates}/{updates}")
    assert "epoch 2/2 loss" in initial.lines[-1]
    assert trained.weights().keys() == trained.module.state_dict().keys()
    first, second = initial.job.details["losses"]
    assert second < first


def test_weights_depend_only_on_seed(bench: Bench) -> None:
    def weights(seed: int) -> torch.Tensor:
        initial = bench(model="linear", seed=seed)
        torch.nn.init.zeros_(initial.work.module[1].weight)
        return train(initial.work, Train(kind="train", epochs=1), initial.job).weights()["1.weight"]

    torch.testing.assert_close(weights(0), weights(0), rtol=0, atol=0)
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize(("limit", "batch_size", "updates"), [(10, 8, 1), (6, 1, 5), (2, 64, 1)])
def test_every_batch_size_trains(bench: Bench, limit: int, batch_size: int, updates: int) -> None:
    # One sample of each limit is held back for validation.
    initial = bench(model="linear", data={"source": "digits", "limit": limit})
    before = initial.work.weights()
    train(initial.work, Train(kind="train", epochs=1, batch_size=batch_size), initial.job)
    assert f" {updates}/{updates} " in initial.lines[-1]
    assert not torch.equal(initial.work.weights()["1.weight"], before["1.weight"])


def test_last_batch_of_one_sample_trains_batch_normalization(bench: Bench) -> None:
    initial = bench(data={"source": "digits", "limit": 19})  # 17 to train on
    assert len(initial.job.train) % 8 == 1
    trained = train(initial.work, Train(kind="train", epochs=1, batch_size=8), initial.job)
    assert all(torch.isfinite(tensor).all() for tensor in trained.weights().values())


def test_number_of_updates_ends_training_within_epoch(bench: Bench) -> None:
    initial = bench(model="linear")
    train(initial.work, Train(kind="train", epochs=9, updates=25), initial.job)
    assert " 25/25 " in initial.lines[-1]
    epochs = math.ceil(25 / math.ceil(len(initial.job.train) / 64))
    assert len(initial.job.details["losses"]) == epochs
    assert f"epoch {epochs}/{epochs}" in initial.lines[-1]


def test_recovery_repairs_damaged_model_in_place(bench: Bench) -> None:
    initial = bench()
    train(initial.work, Train(kind="train", epochs=2), initial.job)
    whole = share_right(initial.work.module, initial.test)
    with torch.no_grad():
        initial.work.module[3].weight.zero_()[:4] = torch.randn(4, 8, 3, 3)
    damaged = share_right(initial.work.module, initial.test)
    recover(initial.work.module, Recovery(epochs=1), initial.job, initial.work.inputs)
    assert damaged < whole - 0.3
    assert share_right(initial.work.module, initial.test) > damaged + 0.3
    assert initial.lines[-1].startswith("recover ")
    assert len(initial.job.details["losses"]) == 3
