"""Checks of a loaded model: a wrong mean or std is noticed, and the weights' card is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from cluster.compression import source_check
from cluster.compression.record import SourceCheck
from cluster.compression.work import Job
from cluster.data import PreparedSamples
from cluster.models import cards
from cluster.models.cards import CardAccuracy


@pytest.fixture
def trained_job(bench: Callable, trained_weights: dict[str, torch.Tensor]) -> Job:
    """A job without training whose model learned with mean 0.5 and std 0.5."""
    bench = bench(steps=[])
    bench.job.model.module.load_state_dict(trained_weights)
    return bench.job.with_baseline(bench.job.model.module)


def stating(job: Job, mean: float, std: float) -> Job:
    image = job.model.preprocess.model_copy(update={"mean": (mean,), "std": (std,)})
    validation = PreparedSamples(job.data.validation, job.model.inputs, image)
    return replace(job, model=replace(job.model, preprocess=image), validation=validation)


def test_right_normalization_is_not_doubted(trained_job: Job) -> None:
    assert source_check.check(trained_job) == SourceCheck()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.9, 0.1)])
def test_wrong_normalization_is_noticed(trained_job: Job, mean: float, std: float) -> None:
    wrong = stating(trained_job, mean, std)
    better = source_check.check(wrong).better_normalization

    def share_right(job: Job) -> float:
        (pixels,), labels = job.validation.batch(range(len(job.validation)))
        with torch.no_grad():
            predicted = trained_job.model.module(torch.from_numpy(pixels)).argmax(1).numpy()
        return float((predicted == labels).mean())

    assert better is not None
    assert len(trained_job.validation) <= source_check.SAMPLES
    assert better.samples == len(trained_job.validation)
    assert better.stated_accuracy == pytest.approx(share_right(wrong))
    assert better.accuracy > better.stated_accuracy + 0.02
    found = stating(trained_job, better.mean[0], better.std[0])
    assert better.accuracy == pytest.approx(share_right(found), abs=1.5 / better.samples)
    assert better.accuracy >= share_right(trained_job) - 1.5 / better.samples


def test_model_that_is_trained_first_is_not_checked(bench: Callable) -> None:
    job = stating(bench().job, 0.9, 0.1)
    carded = replace(job, model=replace(job.model, card=CardAccuracy(0.9, "digits")))
    assert source_check.check(carded) == SourceCheck()


def test_card_is_kept(trained_job: Job) -> None:
    carded = replace(trained_job, model=replace(trained_job.model, card=CardAccuracy(0.9, "d")))
    assert source_check.check(carded).card_accuracy == 0.9


def test_torchvision_weights_state_top_1() -> None:
    meta = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta
    assert cards.of_torchvision(meta) == CardAccuracy(pytest.approx(0.69758), "ImageNet-1K")
    assert cards.of_torchvision({"categories": ["a"]}) is None


@pytest.mark.parametrize(("stated", "value"), [("0.913", 0.913), ("91.3", 0.913)])
def test_model_card_states_accuracy(tmp_path: Path, stated: str, value: float) -> None:
    readme = f"""---
model-index:
- name: tiny
  results:
  - task: {{type: text-classification}}
    dataset: {{name: GLUE SST-2, type: glue}}
    metrics:
    - {{type: f1, value: 0.5}}
    - {{type: accuracy, value: {stated}}}
---
# tiny
"""
    card = cards.of_model_card(readme.encode())
    assert card == CardAccuracy(pytest.approx(value), "GLUE SST-2")


@pytest.mark.parametrize("readme", [None, b"# tiny", b"---\n: : [\n---\n", b"\xff\xfe", b""])
def test_model_card_without_accuracy_states_none(readme: bytes | None) -> None:
    assert cards.of_model_card(readme) is None
