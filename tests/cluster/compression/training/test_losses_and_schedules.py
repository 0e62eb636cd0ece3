"""Losses, schedules and augmentations compute their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cluster.compression.training.augment import augment, check, crop, flip
from cluster.compression.training.losses import (
    DISTILLATION_LOSSES,
    LABEL_LOSSES,
    brier,
    cross_entropy,
    logit_error,
    soft_targets,
)
from cluster.compression.training.optimizers import OPTIMIZERS, learning_rate
from cluster.config.steps import Train
from cluster.errors import CompressionError


def test_losses_with_labels_equal_formulas() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    right = [math.exp(2) / (math.exp(2) + 1), 1 / (1 + math.e)]
    entropy = -sum(math.log(share) for share in right) / 2
    assert cross_entropy(logits, labels).item() == pytest.approx(entropy)
    # Both classes are off by as much when there are two.
    squares = sum((1 - share) ** 2 for share in right) / 2
    assert brier(logits, labels).item() == pytest.approx(squares)


def test_losses_between_outputs_equal_formulas() -> None:
    student = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
    teacher = torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(soft_targets(student, teacher, 2.0), expected)
    assert soft_targets(teacher, teacher, 4.0).item() == pytest.approx(0, abs=1e-6)
    squares = ((student - teacher) ** 2).mean()
    torch.testing.assert_close(logit_error(student, teacher, 2.0), squares)


def test_soft_target_gradient_is_independent_of_temperature() -> None:
    def size(temperature: float) -> float:
        student = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
        soft_targets(student, torch.tensor([[-1.0, 0.0, 1.0]]), temperature).backward()
        assert student.grad is not None
        return student.grad.norm().item()

    # Without T² it would be a hundredth.
    assert size(50.0) == pytest.approx(size(5.0), rel=0.1)


@pytest.mark.parametrize(
    ("schedule", "middle", "last"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1, 1)]
)
def test_learning_rate_warms_up_and_follows_schedule(
    schedule: str, middle: float, last: float
) -> None:
    step = Train(kind="train", learning_rate=2.0, warmup_share=0.1, schedule=schedule)
    rates = [learning_rate(step, update, 110) for update in range(110)]
    np.testing.assert_allclose(rates[:11], 2 * np.arange(1, 12) / 11)
    assert rates[11] == 2
    assert rates[60] == pytest.approx(2 * middle, rel=0.02)
    assert rates[109] == pytest.approx(2 * last, abs=0.03)
    assert rates[11:] == sorted(rates[11:], reverse=True)
    none = Train(kind="train", learning_rate=2.0, warmup_share=0, schedule=schedule)
    assert learning_rate(none, 0, 1) == 2


def test_optimizer_steps_equal_formulas() -> None:
    def stepped(name: str, gradients: list[float], **settings: float) -> float:
        weight = torch.nn.Parameter(torch.tensor([1.0]))
        step = Train(kind="train", optimizer=name, learning_rate=0.1, **settings)
        optimizer = OPTIMIZERS[name]([weight], step)
        for gradient in gradients:
            weight.grad = torch.tensor([gradient])
            optimizer.step()
        return weight.item()

    assert stepped("sgd", [1.0], momentum=0, weight_decay=0) == pytest.approx(1 - 0.1)
    # v = 1, then 1.5; each step by g + m·v.
    expected = 1 - 0.1 * (1 + 0.5) - 0.1 * (1 + 0.5 * 1.5)
    assert stepped("sgd", [1.0, 1.0], momentum=0.5, weight_decay=0) == pytest.approx(expected)
    # Adam's first step has the size of the learning rate; the decay is beside it.
    assert stepped("adamw", [7.0], weight_decay=0.5) == pytest.approx(1 - 0.1 * 0.5 - 0.1)


def images(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 16, 24)).astype(np.float32)


def test_flip_mirrors_half_of_images() -> None:
    given = images()
    draws = np.random.default_rng(1).random((64, 2))
    flipped = flip(given, draws)
    turned = draws[:, 0] < 0.5
    assert 20 < turned.sum() < 44
    np.testing.assert_array_equal(flipped[turned], given[turned][..., ::-1])
    np.testing.assert_array_equal(flipped[~turned], given[~turned])


def test_crop_shifts_at_most_an_eighth_and_fills_with_zeros() -> None:
    given = images(3)
    # The middle, the far corner (2 rows down, 3 columns right), the near one.
    draws = np.array([[0.5, 0.5], [0.999, 0.999], [0.0, 0.0]])
    shifted = crop(given, draws)
    np.testing.assert_array_equal(shifted[0], given[0])
    np.testing.assert_array_equal(shifted[1, :, :-2, :-3], given[1, :, 2:, 3:])
    assert not shifted[1, :, -2:].any()
    assert not shifted[1, :, :, -3:].any()
    np.testing.assert_array_equal(shifted[2, :, 2:, 3:], given[2, :, :-2, :-3])


def test_augmentations_run_in_order_with_draws_per_image() -> None:
    given = images()
    draws = np.random.default_rng(1).random((64, 2, 2))
    (whole,) = augment([given], ("flip", "crop"), draws)
    np.testing.assert_array_equal(whole, crop(flip(given, draws[:, 0]), draws[:, 1]))
    (half,) = augment([given[::2]], ("flip", "crop"), draws[::2])
    np.testing.assert_array_equal(half, whole[::2])


def test_only_images_can_be_augmented() -> None:
    check([np.zeros((1, 8), np.float32)], ())
    check([np.zeros((1, 3, 8, 8), np.float32)], ("flip",))
    tokens = np.zeros((1, 128), np.int64)
    with pytest.raises(CompressionError, match=r"flip changes images.*takes int64\[128\], int64"):
        check([tokens, tokens], ("flip",))


def test_losses_of_independent_labels_equal_formulas() -> None:
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([[True, True]])
    right = [1 / (1 + math.exp(-2)), 1 / (1 + math.e)]
    entropy = -sum(map(math.log, right)) / 2
    loss = LABEL_LOSSES["cross_entropy"]["sigmoid"]
    assert loss(logits, labels).item() == pytest.approx(entropy)
    squares = sum((1 - share) ** 2 for share in right) / 2
    assert LABEL_LOSSES["mse"]["sigmoid"](logits, labels).item() == pytest.approx(squares)
    numbers = torch.tensor([[1.0, -3.0]])
    assert LABEL_LOSSES["mse"]["none"](logits, numbers).item() == pytest.approx((1 + 4) / 2)


def test_soft_labels_are_the_divergence_of_each_label() -> None:
    student, teacher = torch.tensor([[1.0, -1.0], [0.5, 3.0]]), torch.tensor([[3.0, 0.0], [0, 1]])
    p, q = (teacher / 2).sigmoid(), (student / 2).sigmoid()
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    loss = DISTILLATION_LOSSES["kl"]["sigmoid"]
    torch.testing.assert_close(loss(student, teacher, 2.0), 4 * each.mean())
    assert loss(teacher, teacher, 4.0).item() == pytest.approx(0, abs=1e-6)
