"""Small models of every family that is cut, with their inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
import transformers
from torch import nn

from cluster.compression.quantization.half_precision import LowPrecision
from cluster.tensors import TensorSpec

ModelAndInputs = tuple[nn.Module, tuple[TensorSpec, ...]]


def image(size: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="input", datatype="FP32", shape=(-1, 3, size, size)),)


TOKENS = (
    TensorSpec(name="input_ids", datatype="INT64", shape=(-1, 12)),
    TensorSpec(name="attention_mask", datatype="INT64", shape=(-1, 12)),
)
_SIZES = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
}


class Text(nn.Module):
    """Text model with positional tensor arguments."""

    def __init__(self, model: nn.Module, answer: str) -> None:
        super().__init__()
        self.model, self.answer = model, answer

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return getattr(output, self.answer)


class SkipsAStage(nn.Module):
    """Model with a skip connection from its first to its last layer, across every cut."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = torch.tanh(layer(x))
        return x + first


def _vision(name: str, size: int, **options: int) -> Callable[[], ModelAndInputs]:
    return lambda: (getattr(torchvision.models, name)(**options), image(size))


def _bert() -> ModelAndInputs:
    return Text(transformers.BertModel(transformers.BertConfig(**_SIZES)), "last_hidden_state"), (
        TOKENS
    )


def _gpt2() -> ModelAndInputs:
    config = transformers.GPT2Config(
        n_layer=3,
        n_embd=32,
        n_head=4,
        vocab_size=100,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Text(transformers.GPT2LMHeadModel(config), "logits"), TOKENS


def _llama() -> ModelAndInputs:
    config = transformers.LlamaConfig(**_SIZES, num_key_value_heads=2, use_cache=False)
    return Text(transformers.LlamaForCausalLM(config), "logits"), TOKENS


def _half(make: Callable[[], ModelAndInputs]) -> Callable[[], ModelAndInputs]:
    def low() -> ModelAndInputs:
        module, specs = make()
        return LowPrecision(module, torch.bfloat16), specs

    return low


FAMILIES: dict[str, Callable[[], ModelAndInputs]] = {
    "resnet18": _vision("resnet18", 32),
    "mobilenet_v3_small": _vision("mobilenet_v3_small", 32),
    "efficientnet_b0": _vision("efficientnet_b0", 32),
    "vit_b_16": _vision("vit_b_16", 32, image_size=32),
    "swin_t": _vision("swin_t", 64),
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "skips": lambda: (SkipsAStage(), (TensorSpec(name="x", datatype="FP32", shape=(-1, 8)),)),
    "resnet18 bf16": _half(_vision("resnet18", 32)),
    "vit_b_16 bf16": _half(_vision("vit_b_16", 32, image_size=32)),
}


def random_inputs(specs: tuple[TensorSpec, ...], batch: int, seed: int) -> list[torch.Tensor]:
    """Return inputs of ``batch`` items; attention masks leave some tokens out."""
    random = torch.Generator().manual_seed(seed)
    inputs = []
    for spec in specs:
        shape = (batch, *spec.item_shape)
        if spec.datatype == "FP32":
            inputs.append(torch.randn(shape, generator=random))
        else:
            mask = spec.name == "attention_mask"
            inputs.append(torch.randint(0, 2 if mask else 100, shape, generator=random))
        if spec.name == "attention_mask":
            inputs[-1][:, 0] = 1
    return inputs
