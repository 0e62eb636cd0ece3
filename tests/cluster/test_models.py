"""Model sources torchvision and python: inputs, classes, labels and refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cluster.config.sources import ImageInput, ModelSource
from cluster.errors import SourceError
from cluster.models import LoadedModel, load_model, source_fingerprint
from cluster.models.from_torchvision import replace_head

RECIPES = Path(__file__).parents[2] / "deployments" / "recipes"
SMALL = {"size": 32}
FOUR = {"shape": [4]}
LINEAR = """
from torch import nn
def make(num_classes=3): return nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes))
"""
ModuleFile = Callable[[str], str]


def load(source: str, labels: tuple[str, ...] = (), **fields: Any) -> LoadedModel:
    return load_model(ModelSource.model_validate({"source": source, **fields}), labels)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# ---------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_takes_classes_from_data(name: str) -> None:
    model = load(f"torchvision:{name}", ("cat", "dog", "eel"), image=SMALL)
    assert not model.module.training
    assert model.inputs[0].shape == (-1, 3, 32, 32)
    assert model.outputs[0].model_dump() == {
        "name": "logits",
        "datatype": "FP32",
        "shape": (-1, 3),
    }
    assert model.labels == ("cat", "dog", "eel")
    assert model.preprocess == ImageInput(size=32)
    assert model.module(torch.zeros(5, 3, 32, 32)).shape == (5, 3)


def test_classes_without_data_are_numbered() -> None:
    assert load("torchvision:resnet18", image=SMALL, num_classes=4).labels == ("0", "1", "2", "3")
    assert load("torchvision:resnet18", image=SMALL).outputs[0].shape == (-1, 1000)


def test_unknown_model_name_suggests_close_ones() -> None:
    with pytest.raises(SourceError, match=r"no classification model 'resnet81'.*resnet18"):
        load("torchvision:resnet81")
    with pytest.raises(SourceError, match="known: alexnet"):
        load("torchvision:qqqqqqq")


def test_unknown_weights_error_names_known_ones() -> None:
    with pytest.raises(SourceError, match=r"'IMAGENET' is neither a file nor .*IMAGENET1K_V1"):
        load("torchvision:resnet18", weights="IMAGENET")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """Download folder of torch.hub, with random weights under the real names."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("squeezenet1_1", "mobilenet_v3_small"):
        weights = torchvision.models.get_model_weights(name).DEFAULT
        state = torchvision.models.get_model(name).state_dict()
        torch.save(state, tmp_path / "checkpoints" / weights.url.rpartition("/")[2])
    yield tmp_path
    torch.hub.set_dir(before)


def test_pretrained_weights_include_preprocessing_and_labels(hub: Path) -> None:
    model = load("torchvision:squeezenet1_1", weights="IMAGENET1K_V1")
    assert model.preprocess == ImageInput(size=224, resize=256)
    assert model.labels[:2] == ("tench", "goldfish")
    assert model.outputs[0].shape == (-1, 1000)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_new_head_keeps_pretrained_backbone(hub: Path, name: str) -> None:
    labels = ("cat", "dog")
    pretrained = load(f"torchvision:{name}", weights="IMAGENET1K_V1").module.state_dict()
    model = load(f"torchvision:{name}", labels, weights="DEFAULT", image={"size": 64})
    assert model.labels == labels
    assert model.preprocess == ImageInput(size=64)
    state = model.module.state_dict()
    changed = [key for key in pretrained if not torch.equal(pretrained[key], state[key])]
    assert {key.rpartition(".")[0] for key in changed} == {
        "classifier.1" if name == "squeezenet1_1" else "classifier.3"
    }


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "inception_v3",
        "shufflenet_v2_x0_5",
        "swin_t",
        "vit_b_16",
        "convnext_tiny",
        "mnasnet0_5",
        "regnet_x_400mf",
        "vgg11",
    ],
)
def test_replaced_head_is_last_layer_of_every_family(name: str) -> None:
    # The meta device builds without memory; RegNet computes with tensors while it builds.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        module = torchvision.models.get_model(name).eval()
        assert replace_head(module, 7)
        size = 299 if name == "inception_v3" else 224
        assert module(torch.zeros(1, 3, size, size)).shape == (1, 7)
        assert not replace_head(module, 7)


def test_auxiliary_heads_are_removed() -> None:
    module = load("torchvision:googlenet", ("a", "b"), image={"size": 64}).module.train()
    assert module(torch.zeros(2, 3, 64, 64)).shape == (2, 2)


def test_mismatched_inputs_and_classes_are_refused() -> None:
    with pytest.raises(SourceError, match=r"vit_b_32 does not accept input FP32 \[-1, 3, 32, 32\]"):
        load("torchvision:vit_b_32", image=SMALL)
    with pytest.raises(SourceError, match=r"no tokenizer.*model\.text"):
        load("torchvision:resnet18", text={})
    with pytest.raises(SourceError, match="num_classes=5, but the data has 2 labels"):
        load("torchvision:resnet18", ("a", "b"), num_classes=5)


# ---------------------------------------------------------------------------- python


def test_factory_gets_classes_if_it_has_the_parameter(module_file: ModuleFile) -> None:
    model = load(module_file(LINEAR), ("a", "b"), tensor={"name": "x", **FOUR})
    assert model.outputs[0].shape == (-1, 2)
    assert (model.inputs[0].name, model.inputs[0].shape) == ("x", (-1, 4))
    assert model.preprocess is None
    assert load(module_file(LINEAR), tensor=FOUR).labels == ("0", "1", "2")
    fixed = module_file("from torch import nn\ndef make(): return nn.Linear(4, 5)")
    assert load(fixed, tensor=FOUR).labels == ("0", "1", "2", "3", "4")
    with pytest.raises(SourceError, match="returns 5 outputs, expected 2"):
        load(fixed, ("a", "b"), tensor=FOUR)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def other(): pass", r"has no 'make'; it has: other"),
        ("make = 3", "make is of type int, expected a function"),
        ("import not_there_at_all", "no module 'not_there_at_all'"),
        ("1 / 0", "importing headrace_test_module raised ZeroDivisionError"),
        ("def make(): raise OSError('no disk')", r"calling the factory \(\) raised OSError: no"),
        ("def make(num_classes): return 3", r"needs num_classes; set model\.num_classes"),
        ("def make(): return 3", "returned int, expected a torch.nn.Module"),
        ("def make(): return nn.Linear(5, 2)", r"does not accept input FP32 \[-1, 4\]: RuntimeErr"),
        ("def make(): return nn.Linear(4, 1)", "one number per item, whose softmax is always 1"),
        ("def make(): return nn.Linear(4, 2).double()", "does not accept input FP32"),
    ],
)
def test_wrong_factories_are_refused(module_file: ModuleFile, body: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load(module_file(f"from torch import nn\n{body}\n"), tensor=FOUR)


def test_factory_needs_declared_input(module_file: ModuleFile) -> None:
    with pytest.raises(SourceError, match=r"add model\.image .* or model\.tensor"):
        load(module_file(LINEAR))


def test_logits_must_be_fp32(module_file: ModuleFile) -> None:
    source = module_file(
        "from torch import nn\nclass Half(nn.Linear):\n"
        "    def forward(self, x): return super().forward(x).bfloat16()\n"
        "def make(): return Half(4, 2)"
    )
    with pytest.raises(
        SourceError, match=r"of torch\.bfloat16, expected .* build the module in float32"
    ):
        load(source, tensor=FOUR)


@pytest.fixture
def recipe_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make modules beside recipes importable, as in their jobs."""
    monkeypatch.syspath_prepend(RECIPES)
    yield
    sys.modules.pop("cifar_resnet", None)


def published(depth: int) -> dict[str, torch.Tensor]:
    """Random weights of a CIFAR network of He et al. 2015, under the names of the checkpoints of
    akamaster/pytorch_resnet_cifar10."""
    random = torch.Generator().manual_seed(depth)
    weights: dict[str, torch.Tensor] = {}

    def convolution(name: str, norm: str, inputs: int, outputs: int) -> None:
        scale = (2 / (9 * inputs)) ** 0.5
        weights[f"{name}.weight"] = scale * torch.randn(outputs, inputs, 3, 3, generator=random)
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{norm}.{tensor}"] = 0.5 + torch.rand(outputs, generator=random)
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    convolution("conv1", "bn1", 3, 16)
    channels = 16
    for stage, outputs in enumerate((16, 32, 64), start=1):
        for block in range((depth - 2) // 6):
            prefix = f"layer{stage}.{block}"
            convolution(f"{prefix}.conv1", f"{prefix}.bn1", channels, outputs)
            convolution(f"{prefix}.conv2", f"{prefix}.bn2", outputs, outputs)
            channels = outputs
    weights["linear.weight"] = 0.1 * torch.randn(10, 64, generator=random)
    weights["linear.bias"] = torch.randn(10, generator=random)
    return weights


def computed(weights: dict[str, torch.Tensor], depth: int, images: torch.Tensor) -> torch.Tensor:
    """Logits ``[batch, 10]`` of those weights, from the formulas of the paper (option A)."""

    def convolved(x: torch.Tensor, name: str, norm: str, stride: int = 1) -> torch.Tensor:
        x = functional.conv2d(x, weights[f"{name}.weight"], stride=stride, padding=1)
        mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        return functional.batch_norm(
            x, mean, var, weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        )

    x = convolved(images, "conv1", "bn1").relu()
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            prefix, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            residual = convolved(x, f"{prefix}.conv1", f"{prefix}.bn1", stride).relu()
            residual = convolved(residual, f"{prefix}.conv2", f"{prefix}.bn2")
            if stride == 2:
                zeros = torch.zeros_like(x[:, : x.shape[1] // 2, ::2, ::2])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            x = (residual + x).relu()
    return x.mean((2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]


@pytest.mark.parametrize("depth", [20, 56])
@pytest.mark.usefixtures("recipe_modules")
def test_published_cifar_weights_compute_the_paper(depth: int, tmp_path: Path) -> None:
    weights = published(depth)
    save_file(weights, tmp_path / "published.safetensors")
    model = load(
        f"python:cifar_resnet:resnet{depth}",
        tuple("abcdefghij"),
        image=SMALL,
        weights=str(tmp_path / "published.safetensors"),
    )
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.module(images), computed(weights, depth, images), rtol=1e-3, atol=1e-3
        )


@pytest.mark.usefixtures("recipe_modules")
@pytest.mark.parametrize(
    ("depth", "parameters", "macs"), [(20, 269_722, 40_551_040), (56, 853_018, 125_485_696)]
)
def test_cifar_networks_match_paper(depth: int, parameters: int, macs: int) -> None:
    module = load(f"python:cifar_resnet:resnet{depth}", tuple("abcdefghij"), image=SMALL).module
    weighted = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(weighted) == depth
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() == 2 * macs
    # One module per use, also for shortcuts: compression steps work on modules.
    assert sum(isinstance(part, nn.ReLU) for part in module.modules()) == depth - 1
    shortcut = module.get_submodule("layer2.0.shortcut")
    assert not list(shortcut.parameters())
    x = torch.randn(2, 16, 8, 8)
    zeros = torch.zeros(2, 8, 4, 4)
    assert torch.equal(shortcut(x), torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1))


# ---------------------------------------------------------------------------- fingerprints


def test_fingerprint_follows_code_and_checkpoint(tmp_path: Path, module_file: ModuleFile) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    source = ModelSource.model_validate(
        {"source": module_file(LINEAR), "weights": str(file), "tensor": FOUR}
    )
    first = source_fingerprint(source)
    assert source_fingerprint(source) == first
    save_file({"a": torch.ones(1)}, file)
    second = source_fingerprint(source)
    module_file(LINEAR + "  # changed")
    assert len({first, second, source_fingerprint(source)}) == 3
    plain = ModelSource(source="torchvision:resnet18")
    assert source_fingerprint(plain) != source_fingerprint(
        plain.model_copy(update={"weights": str(file)})
    )
