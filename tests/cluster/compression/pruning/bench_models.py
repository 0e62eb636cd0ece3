"""Small models that pruning supports or rejects, and a job for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import VisionTransformer

from cluster.artifact.local import LocalStore
from cluster.compression.launch import InProcess
from cluster.compression.pruning.prune import prune
from cluster.compression.work import Job, Work
from cluster.config.base import parse
from cluster.config.recipe import Recipe
from cluster.config.steps import Prune
from cluster.data import LabelledData
from cluster.models import LoadedModel
from cluster.tensors import TensorSpec

CLASSES = 10
IMAGES = (TensorSpec(name="input", datatype="FP32", shape=(-1, 3, 16, 16)),)
TOKENS = tuple(
    TensorSpec(name=name, datatype="INT64", shape=(-1, 12))
    for name in ("input_ids", "attention_mask")
)


class RandomSamples:
    """Noise with labels: without anything to learn, only pruning has an effect."""

    def __init__(self, inputs: Sequence[TensorSpec], count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._labels = random.integers(0, CLASSES, count)
        self._arrays = [
            random.standard_normal((count, *spec.item_shape)).astype(np.float32)
            if spec.datatype == "FP32"
            else random.integers(1, 50, (count, *spec.item_shape)).clip(max=49)
            for spec in inputs
        ]

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, indices: Any) -> tuple[list[np.ndarray], np.ndarray]:
        chosen = np.asarray(indices, np.int64)
        return [array[chosen] for array in self._arrays], self._labels[chosen]

    def readable(self, indices: Any) -> np.ndarray:
        return np.ones(len(indices), np.bool_)


@dataclass(frozen=True)
class Pruned:
    """Model before and after the step."""

    before: nn.Module
    work: Work
    details: dict[str, Any]
    lines: list[str]


def job_for(
    inputs: Sequence[TensorSpec], lines: list[str], folder: Path, metric: str = "accuracy"
) -> Job:
    recipe = parse(
        {
            "name": "bench",
            "model": {"source": "python:none:none"},
            "evaluation": {"metrics": [metric]},
        },
        Recipe,
        "recipe",
    )
    train = RandomSamples(inputs, 48, 0)
    validation = RandomSamples(inputs, 32, 1)
    data = LabelledData(train, validation, validation, tuple("0123456789"), "random")  # type: ignore[arg-type]
    return Job(
        recipe=recipe,
        store=LocalStore(folder / "store"),
        data=data,
        model=LoadedModel(nn.Identity(), tuple(inputs), (), None, data.labels, {}),
        train=train,  # type: ignore[arg-type]
        validation=validation,  # type: ignore[arg-type]
        baseline=nn.Identity,
        workspace=folder,
        checkpoints=folder,
        launcher=InProcess(),
        out=lines.append,
    )


def pruned(
    module: nn.Module,
    folder: Path,
    inputs: tuple[TensorSpec, ...] = IMAGES,
    metric: str = "accuracy",
    method: str = "structured",
    **fields: object,
) -> Pruned:
    lines: list[str] = []
    job = job_for(inputs, lines, folder, metric)
    step = Prune.model_validate({"kind": "prune", "method": method, **fields})
    work = prune(Work.of(module.eval(), inputs), step, job)
    return Pruned(module, work, job.details, lines)


def example(inputs: Sequence[TensorSpec] = IMAGES, count: int = 4) -> list[torch.Tensor]:
    return [
        torch.from_numpy(array) for array in RandomSamples(inputs, count, 2).batch(range(count))[0]
    ]


class Padded(nn.Module):
    """Shortcut of option A: every second pixel, zeros before and after the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))


class Residual(nn.Module):
    """Residual block with batch normalization; ``shortcut`` doubles its 16 channels."""

    def __init__(self, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 32, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.act = nn.ReLU()
        self.shortcut = shortcut
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.bn0(self.stem(x)))
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        if self.shortcut is None:
            skipped = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        else:
            skipped = self.shortcut(x)
        return self.fc(self.act(y + skipped).mean((2, 3)))


class Reversed(nn.Module):
    """Two convolutions; the forward method reverses the channels between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3)
        self.second = nn.Conv2d(32, 32, 3)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(x)).flip(1)
        return self.fc(functional.relu(self.second(x)).mean((2, 3)))


class Concatenated(nn.Module):
    """Concatenated channels of two layers, normalized together, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 16, 3)
        self.right = nn.Conv2d(3, 16, 3)
        self.bn = nn.BatchNorm2d(32)
        self.both = nn.Conv2d(32, 16, 3)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(torch.cat([self.left(x), self.right(x)], 1)).relu()
        return self.fc(self.both(x).relu().mean((2, 3)))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the model with reproducible weights and statistics that are not the defaults."""
    torch.manual_seed(0)
    module = make().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module


def padded() -> nn.Module:
    return Residual(Padded())


def inline() -> nn.Module:
    return Residual(None)


def vision_transformer() -> nn.Module:
    return VisionTransformer(
        image_size=16,
        patch_size=8,
        num_layers=2,
        num_heads=4,
        hidden_dim=32,
        mlp_dim=64,
        num_classes=CLASSES,
    )


class Embedding(nn.Module):
    """BERT encoder whose output is the mean over its tokens, normalized to length one."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=16,
        )
        self.model = BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.clamp(max=1)
        states = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return functional.normalize(states.mean(1), dim=1)
