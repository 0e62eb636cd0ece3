"""Checkpoints: matching ones load, others are explained, and no code runs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from cluster.config.sources import ModelSource
from cluster.errors import SourceError
from cluster.models import LoadedModel, checkpoints, load_model

FOUR = {"shape": [4]}
LINEAR = """
from torch import nn
def make(): return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
"""
Trained = tuple[str, dict[str, torch.Tensor]]


def load(source: str, labels: tuple[str, ...] = (), **fields: Any) -> LoadedModel:
    return load_model(ModelSource.model_validate({"source": source, **fields}), labels)


@pytest.fixture
def trained(module_file: Callable[[str], str]) -> Trained:
    """A source, and matching tensors."""
    return module_file(LINEAR), {"1.weight": torch.randn(3, 4), "1.bias": torch.randn(3)}


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "bin"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_checkpoint_fills_model(
    tmp_path: Path, trained: Trained, suffix: str, wrapped: bool
) -> None:
    source, tensors = trained
    file = tmp_path / f"w.{suffix}"
    named = {f"module.{name}": tensor for name, tensor in tensors.items()} if wrapped else tensors
    if suffix == "safetensors":
        save_file(named, file)
    else:
        torch.save({"state_dict": named, "epoch": 3} if wrapped else named, file)
    model = load(source, tensor=FOUR, weights=str(file))
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, tensors[name])


def test_shared_tensor_needs_one_of_its_names(
    tmp_path: Path, module_file: Callable[[str], str]
) -> None:
    source = module_file(
        "from torch import nn\n"
        "def make():\n"
        "    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))\n"
        "    net[1].weight = net[0].weight\n"
        "    return net"
    )
    weight, biases = torch.randn(4, 4), torch.randn(2, 4)
    tensors = {"1.weight": weight, "0.bias": biases[0].clone(), "1.bias": biases[1].clone()}
    save_file(tensors, tmp_path / "w.safetensors")
    module = load(source, tensor=FOUR, weights=str(tmp_path / "w.safetensors")).module
    assert module[0].weight is module[1].weight
    torch.testing.assert_close(module[0].weight.detach(), weight)
    save_file({"0.bias": biases[0].clone()}, tmp_path / "w.safetensors")
    with pytest.raises(SourceError, match=r"the file lacks 0\.weight, 1\.weight, 1\.bias"):
        load(source, tensor=FOUR, weights=str(tmp_path / "w.safetensors"))


class Bomb:
    """Object that pickles to a call that creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))]
)
def test_pickle_with_code_is_refused_without_running(
    tmp_path: Path, trained: Trained, save: Callable[[Any, Path], None]
) -> None:
    source, tensors = trained
    file, target = tmp_path / "w.pt", tmp_path / "ran"
    save({**tensors, "bomb": Bomb(target)}, file)
    with pytest.raises(SourceError, match=r"w\.pt is refused"):
        load(source, tensor=FOUR, weights=str(file))
    assert not target.exists()
    if save is torch.save:  # the code of the same file runs if trusted
        torch.load(file, weights_only=False)
        assert target.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"1.bias": None}, r"the file lacks 1\.bias"),
        ({"2.bias": torch.zeros(1)}, r"the model lacks 2\.bias"),
        ({"1.weight": torch.zeros(2, 4)}, r"1\.weight \[2, 4\] in the file, expected \[3, 4\]"),
        ({f"x{i}": torch.zeros(1) for i in range(9)}, "x0, x1, x2, x3, x4 and 4 more"),
    ],
)
def test_checkpoint_of_another_model_is_refused(
    tmp_path: Path, trained: Trained, changes: dict[str, Any], message: str
) -> None:
    source, tensors = trained
    file = tmp_path / "w.safetensors"
    save_file({k: v for k, v in {**tensors, **changes}.items() if v is not None}, file)
    with pytest.raises(SourceError, match=message):
        load(source, tensor=FOUR, weights=str(file))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pt", b"junk", "damaged"),
        ("w.safetensors", b"junk", "cannot be read as safetensors"),
        ("w.onnx", b"junk", r"must end in one of \.safetensors, \.pt"),
        ("w.pt", None, "is not a file"),
    ],
)
def test_non_checkpoint_files_are_refused(
    tmp_path: Path, trained: Trained, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        load(trained[0], tensor=FOUR, weights=str(tmp_path / name))


def test_checkpoint_with_more_than_tensors_is_refused(tmp_path: Path, trained: Trained) -> None:
    file = tmp_path / "w.pt"
    torch.save({**trained[1], "epoch": 3}, file)
    with pytest.raises(SourceError, match="more than tensors: epoch"):
        load(trained[0], tensor=FOUR, weights=str(file))
    torch.save([1, 2], file)
    with pytest.raises(SourceError, match="holds a list"):
        load(trained[0], tensor=FOUR, weights=str(file))


def test_checkpoint_without_batch_counters_loads(tmp_path: Path) -> None:
    # MNASNet rejects a mapping without version marks, and safetensors stores none.
    state = torchvision.models.get_model("mnasnet0_5", num_classes=2).state_dict()
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert counters
    file = tmp_path / "w.safetensors"
    save_file({name: state[name] for name in state if name not in counters}, file)
    model = load("torchvision:mnasnet0_5", num_classes=2, weights=str(file), image={"size": 32})
    loaded = model.module.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_model_with_child_named_module_keeps_names(tmp_path: Path) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = torch.nn.Linear(2, 2)

    saved, loaded = Wrapped(), Wrapped()
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    checkpoints.fill(loaded, tmp_path / "w.safetensors")
    torch.testing.assert_close(loaded.state_dict(), saved.state_dict(), rtol=0, atol=0)
