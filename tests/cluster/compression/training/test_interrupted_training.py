"""Interrupted trainings: a killed process, a full disk, a loss of NaN."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.compression.training import checkpoint
from cluster.compression.training.train import recover, train
from cluster.config.steps import Recovery, Train
from cluster.errors import CompressionError
from cluster.program.node import CPUS_VARIABLE

Bench = Callable[..., Any]

SCRIPT = """
import sys, time
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from cluster.artifact.store import open_store
from cluster.compression.launch import InProcess
from cluster.compression.training.train import train
from cluster.compression.work import Job, Work
from cluster.config.base import parse
from cluster.config.recipe import Recipe
from cluster.config.steps import Train
from cluster.data import PreparedSamples, load_data
from cluster.models import LoadedModel
from cluster.models.built_model import image_spec

folder, mode = Path(sys.argv[1]), sys.argv[2]
recipe = parse({"name": "m", "model": {"source": "python:none:none", "image":
    {"size": 8, "channels": 1, "mean": [0.5], "std": [0.5]}}, "data": {"limit": 200}},
    Recipe, "recipe")
data = load_data(recipe.data, 0)
torch.manual_seed(0)
module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.3),
    nn.Linear(144, 10))
inputs = (image_spec(recipe.model.image),)
samples = PreparedSamples(data.train, inputs, recipe.model.image)

def out(line):
    print(line, flush=True)
    if mode == "slow" and "epoch 3/4" in line:
        time.sleep(60)  # to be killed here

import cluster.compression.training.descent as descent
kept = descent.Bar
descent.Bar = lambda title, total, out: kept(title, total, out, interval_s=0)
model = LoadedModel(module, inputs, (), recipe.model.image, data.labels, {})
job = Job(recipe, open_store(str(folder / "store")), data, model, samples, samples,
    lambda: module, folder, folder / "kept", InProcess(), out)
step = Train(kind="train", epochs=4, optimizer=sys.argv[3], learning_rate=0.01, batch_size=32,
    augmentation=["flip", "crop"])
work = train(Work.of(module, inputs), step, job)
save_file(work.weights(), folder / f"{mode}.safetensors")
print("losses", job.details["losses"])
"""


def start(folder: Path, mode: str, optimizer: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), mode, optimizer],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.fault("a compression job is killed amid its training")
def test_killed_training_resumes_to_same_result(tmp_path: Path) -> None:
    optimizer = "adamw"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    expected = start(whole, "plain", optimizer)
    slow = start(killed, "slow", optimizer)
    assert slow.stdout is not None
    try:
        for line in slow.stdout:
            if "epoch 3/4" in line:
                break
    finally:
        os.kill(slow.pid, signal.SIGKILL)
        slow.communicate()
    assert slow.returncode == -signal.SIGKILL
    assert not (killed / "slow.safetensors").exists()
    resumed = start(killed, "plain", optimizer)
    resumed_log, _ = resumed.communicate(timeout=60)
    first, _ = expected.communicate(timeout=60)
    assert "train    resumes after epoch 2 of 4" in resumed_log
    assert "epoch 2/4" not in resumed_log
    assert resumed_log.splitlines()[-1] == first.splitlines()[-1]
    wanted, resumed_weights = (load_file(path / "plain.safetensors") for path in (whole, killed))
    torch.testing.assert_close(resumed_weights, wanted, rtol=0, atol=0)


def small(bench: Bench, **fields: Any) -> Any:
    return bench(model="linear", data={"source": "digits", "limit": 100}, **fields)


def files(initial: Any) -> list[str]:
    return sorted(path.name for path in initial.job.checkpoints.iterdir())


def test_finished_training_is_not_repeated(bench: Bench) -> None:
    initial, again = small(bench), small(bench)
    step = Train(kind="train", epochs=2)
    wanted = train(initial.work, step, initial.job).weights()
    resumed_weights = train(again.work, step, again.job).weights()
    torch.testing.assert_close(resumed_weights, wanted, rtol=0, atol=0)
    assert again.lines == ["train    resumes after epoch 2 of 2"]
    assert again.job.details == initial.job.details


def test_interrupted_training_with_momentum_resumes_same(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resuming process may have more CPUs, whose number changes sums."""
    monkeypatch.setenv(CPUS_VARIABLE, "1")
    step = Train(kind="train", epochs=3)
    plain, broken, resumed = small(bench), small(bench), small(bench)
    wanted = train(plain.work, step, replace(plain.job, checkpoints=tmp_path / "plain"))
    batch = broken.job.train.batch
    calls = iter(range(100))

    def interrupted(indices: Any) -> Any:
        if next(calls) == 5:  # in the third epoch
            raise KeyboardInterrupt
        return batch(indices)

    monkeypatch.setattr(broken.job.train, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(broken.work, step, broken.job)
    monkeypatch.setenv(CPUS_VARIABLE, "2")
    resumed_work = train(resumed.work, step, resumed.job)
    assert resumed.lines[0] == "train    resumes after epoch 2 of 3"
    assert torch.get_num_threads() == 1
    torch.testing.assert_close(resumed_work.weights(), wanted.weights(), rtol=0, atol=0)


@pytest.mark.parametrize("change", ["step", "weights", "damaged"])
def test_checkpoint_of_another_training_is_ignored(bench: Bench, change: str) -> None:
    initial, again = small(bench), small(bench)
    train(initial.work, Train(kind="train", epochs=2), initial.job)
    step = Train(kind="train", epochs=2)
    if change == "step":
        step = Train(kind="train", epochs=2, learning_rate=0.04)
    elif change == "weights":
        torch.nn.init.normal_(again.work.module[1].bias)
    else:
        (file,) = initial.job.checkpoints.iterdir()
        file.write_bytes(file.read_bytes()[:-100])
    train(again.work, step, again.job)
    assert not any("goes on" in line for line in again.lines)
    assert len(again.job.details["losses"]) == 2


def test_each_recovery_of_step_has_its_checkpoint(bench: Bench) -> None:
    initial = small(bench)
    for _ in range(2):
        recover(initial.work.module, Recovery(epochs=1), initial.job, initial.work.inputs)
    again = small(bench)
    for _ in range(2):
        recover(again.work.module, Recovery(epochs=1), again.job, again.work.inputs)
    assert len(files(initial)) == 2
    assert again.lines == ["recover  resumes after epoch 1 of 1"] * 2
    torch.testing.assert_close(again.work.weights(), initial.work.weights(), rtol=0, atol=0)


@pytest.mark.parametrize("learning_rate", [1e30, 1e38])
def test_diverging_training_keeps_initial_weights(bench: Bench, learning_rate: float) -> None:
    initial = small(bench)
    before = initial.work.weights()
    step = Train(kind="train", epochs=3, learning_rate=learning_rate, warmup_share=0)
    with pytest.raises(CompressionError) as caught:
        train(initial.work, step, initial.job)
    message = str(caught.value)
    assert message.startswith("train: the ")
    assert "in epoch 1 of 3, at update " in message
    assert "the weights are those from before the training" in message
    assert "Lower learning_rate" in message
    torch.testing.assert_close(initial.work.weights(), before, rtol=0, atol=0)
    assert not initial.work.module.training
    assert files(initial) == []


def test_later_divergence_restores_last_epoch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = small(bench)
    step = Train(kind="train", epochs=3)
    batch = initial.job.train.batch
    calls = iter(range(100))

    def spoilt(indices: Any) -> Any:
        arrays, labels = batch(indices)
        if next(calls) == 4:  # one call looks at a first sample; the fourth update
            arrays[0][0] = float("nan")
        return arrays, labels

    monkeypatch.setattr(initial.job.train, "batch", spoilt)
    with pytest.raises(CompressionError, match=r"loss became nan in epoch 2 of 3, at update 4 of"):
        train(initial.work, step, initial.job)
    (file,) = initial.job.checkpoints.iterdir()
    saved = checkpoint.read(initial.job.checkpoints, file.stem)
    assert saved is not None
    assert saved.epochs == 1
    for name, tensor in initial.work.weights().items():
        torch.testing.assert_close(tensor, saved.module[f"module.{name}"], rtol=0, atol=0)


def test_weights_damaged_by_last_update_are_not_returned(bench: Bench) -> None:
    initial = small(bench)
    before = initial.work.weights()
    step = Train(
        kind="train",
        epochs=1,
        updates=1,
        learning_rate=3e38,
        warmup_share=0,
        batch_size=1,
        momentum=0.99,
        weight_decay=100,
    )
    with pytest.raises(CompressionError, match=r"tensor 1\.weight is no longer finite in epoch 1"):
        train(initial.work, step, initial.job)
    torch.testing.assert_close(initial.work.weights(), before, rtol=0, atol=0)


@pytest.mark.fault("the disk is full while a training is kept")
def test_full_disk_is_reported_and_leaves_no_partial_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = small(bench)
    writes = iter(range(9))

    def fill(tensors: Any, path: Path, metadata: Any) -> None:
        if next(writes) == 0:
            save_file(tensors, path, metadata=metadata)
            return
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fill)
    with pytest.raises(CompressionError, match=r"checkpoint of epoch 2 .*No space left.*free"):
        train(initial.work, Train(kind="train", epochs=3), initial.job)
    (name,) = files(initial)
    assert name.endswith(".safetensors")
    saved = checkpoint.read(initial.job.checkpoints, name.removesuffix(".safetensors"))
    assert saved is not None
    assert saved.epochs == 1


def test_invalid_sharing_or_augmentation_is_rejected_early(bench: Bench) -> None:
    initial = small(bench)
    with pytest.raises(CompressionError, match="batch_size=2 cannot be shared by processes=4"):
        train(initial.work, Train(kind="train", batch_size=2, processes=4), initial.job)
    with pytest.raises(CompressionError, match="processes=2 needs a Ray cluster"):
        train(initial.work, Train(kind="train", processes=2), initial.job)
    tokens = replace(initial.job, train=_Tokens())
    with pytest.raises(CompressionError, match=r"flip changes images.*int64\[8\]. Remove"):
        train(initial.work, Train(kind="train", augmentation=["flip"]), tokens)


class _Tokens:
    """Samples without images."""

    def __len__(self) -> int:
        return 4

    def batch(self, indices: Any) -> Any:
        import numpy as np

        return [np.zeros((len(indices), 8), np.int64)], np.zeros(len(indices), np.int64)


def test_partial_file_of_killed_process_is_removed(bench: Bench) -> None:
    initial = small(bench)
    train(initial.work, Train(kind="train", epochs=1), initial.job)
    (name,) = files(initial)
    again = small(bench)
    (initial.job.checkpoints / name).unlink()
    partial_file = initial.job.checkpoints / name.replace(".safetensors", ".999.partial")
    partial_file.write_bytes(b"half")
    os.utime(partial_file, (time.time() - 60,) * 2)
    train(again.work, Train(kind="train", epochs=1), again.job)
    assert files(again) == [name]
