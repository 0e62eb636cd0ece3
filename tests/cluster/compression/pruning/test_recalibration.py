"""Recalibration of batch normalization's statistics after pruning."""

from __future__ import annotations

import copy
from pathlib import Path

import bench_models as models
import torch
from torch import nn

from cluster.compression.pruning.recalibration import recalibrate


def test_statistics_equal_those_of_samples(tmp_path: Path) -> None:
    job = models.job_for(models.IMAGES, [], tmp_path)
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(768, 10)).eval()
    module[0].running_mean.fill_(7)
    assert recalibrate(module, 1000, job) == 48
    (images,), _ = job.train.batch(range(48))
    channels = torch.from_numpy(images).movedim(1, 0).flatten(1)
    torch.testing.assert_close(module[0].running_mean, channels.mean(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module[0].running_var, channels.var(1), atol=1e-3, rtol=1e-3)
    assert module[0].momentum == 0.1
    assert not any(part.training for part in module.modules())


def test_recalibration_of_zero_samples_changes_nothing(tmp_path: Path) -> None:
    job = models.job_for(models.IMAGES, [], tmp_path)
    module = models.seeded(models.padded)
    before = copy.deepcopy(module.state_dict())
    assert recalibrate(module, 0, job) == 0
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_model_without_batch_normalization_is_not_run(tmp_path: Path) -> None:
    job = models.job_for(models.IMAGES, [], tmp_path)
    assert recalibrate(models.Reversed(), 100, job) == 0
