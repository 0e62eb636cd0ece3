"""Checks of the model as loaded: its mean and std on samples, and its weights' own card.

validation samples ─┬─ stated mean and std ─→ scores ─┐
                    └─ each usual other one ─→ scores ─┴─ clearly more ─→ BetterNormalization

A wrong mean or std raises no error. It costs accuracy in silence, of the baseline as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cluster.compression.evaluation.metrics import accuracy, drop
from cluster.compression.record import BetterNormalization, SourceCheck
from cluster.compression.steps import leading_training
from cluster.compression.work import Job
from cluster.config.sources import ImageInput
from cluster.errors import ForwardError
from cluster.models.forward import Eager

SAMPLES = 256
"""Validation samples on which normalizations are compared, at most."""

_BATCH = 32
_LEAST_GAIN = 0.02
_CONFIDENCE = 0.99

_IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
_IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)

_Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std of each channel."""


def check(job: Job) -> SourceCheck:
    """Return the checks; empty for a model that is trained first, or not judged by accuracy."""
    recipe, card = job.recipe, job.model.card
    if leading_training(recipe.steps) or "accuracy" not in recipe.evaluation.metrics:
        return SourceCheck()
    return SourceCheck(
        better_normalization=_better_normalization(job),
        card_accuracy=card.value if card and recipe.baseline_source == recipe.model else None,
    )


def _better_normalization(job: Job) -> BetterNormalization | None:
    """Return the mean and std with which the loaded model scores clearly more, or None.

    Clearly: two points or more on the same samples, with 99 % confidence.
    """
    image = job.model.preprocess
    if not isinstance(image, ImageInput):
        return None
    (pixels,), labels = job.validation.batch(range(min(SAMPLES, len(job.validation))))
    run = Eager(job.baseline(), one_by_one=job.recipe.one_by_one)
    try:
        stated = _scores(run, pixels, labels)
    except ForwardError:  # the first step, or the check before programs are built, reports it
        return None
    best = None
    for mean, std in _others(image, pixels):
        try:
            scores = _scores(run, _renormalized(pixels, image, mean, std), labels)
        except ForwardError:  # values that the model does not take
            continue
        loss = drop(stated, scores, _CONFIDENCE)  # negative: the other one scores more
        if loss.upper >= 0 or -loss.mean < _LEAST_GAIN:
            continue
        if best is None or scores.mean() > best.accuracy:
            best = BetterNormalization(
                mean=mean,
                std=std,
                accuracy=float(scores.mean()),
                stated_accuracy=float(stated.mean()),
                samples=len(labels),
            )
    return best


def _others(image: ImageInput, pixels: np.ndarray) -> Iterator[_Normalization]:
    """Yield ImageNet's, -1..1, 0..1, and the samples' own, in the image's order of channels."""
    channels = image.channels
    if channels == 3:
        order = slice(None, None, -1 if image.channel_order == "bgr" else 1)
        yield _IMAGENET_MEAN[order], _IMAGENET_STD[order]
    yield (0.5,) * channels, (0.5,) * channels
    yield (0.0,) * channels, (1.0,) * channels
    scaled = _renormalized(pixels, image, (0.0,) * channels, (1.0,) * channels)
    mean, std = scaled.mean(axis=(0, 2, 3)), scaled.std(axis=(0, 2, 3))
    if (std > 0).all():
        yield tuple(map(float, mean.round(4))), tuple(map(float, std.round(4).clip(1e-4)))


def _renormalized(
    pixels: np.ndarray, image: ImageInput, mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
    """Return pixels ``[N, channels, H, W]`` under another mean and std of each channel."""
    old_mean, old_std, new_mean, new_std = (
        np.asarray(values, np.float32)[:, None, None]
        for values in (image.mean, image.std, mean, std)
    )
    renormalized: np.ndarray = (pixels * old_std + old_mean - new_mean) / new_std
    return renormalized


def _scores(run: Eager, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    batches = (pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH))
    logits = np.concatenate([run([batch])[0] for batch in batches])
    return accuracy(logits, labels, logits)
