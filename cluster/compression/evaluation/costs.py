"""What a model costs to store and to compute: parameters, bytes, multiply-accumulates.

module + weights ─ size_of ─→ ModelSize;  baseline + result weights ─ layer_sizes ─→ LayerSize
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cluster.compression.record import LayerSize, ModelSize
from cluster.tensors import TensorSpec

UNNAMED = "(whole model)"
"""The layer of tensors that stand outside every layer."""


def size_of(
    module: torch.nn.Module,
    inputs: Sequence[TensorSpec],
    weights: Mapping[str, torch.Tensor],
    macs: int | None = None,
) -> ModelSize:
    """Count ``module``'s parameters and multiply-accumulates, and the bytes of ``weights``.

    ``inputs``: what the module takes. ``weights``: what is stored, which for a quantized model
    are other tensors than the module's. ``macs``: of one item, where they are known already.
    """
    parameters = list(module.parameters())
    return ModelSize(
        parameters=sum(each.numel() for each in parameters),
        nonzero=sum(int(each.count_nonzero()) for each in parameters),
        weight_bytes=sum(_bytes(tensor) for tensor in weights.values()),
        macs=macs_of(module, inputs) if macs is None else macs,
    )


def macs_of(module: torch.nn.Module, inputs: Sequence[TensorSpec]) -> int:
    """Multiply-accumulates of one item: those of convolutions, matrix products and attention.

    One multiply-accumulate is two floating-point operations. Zero weights count: a dense kernel
    multiplies by them too.
    """
    example = [torch.from_numpy(spec.zeros(1)) for spec in inputs]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _in_eval_mode(module), _countable(), counter:
        module(*example)
    return counter.get_total_flops() // 2


def layer_sizes(
    baseline: Mapping[str, torch.Tensor], result: Mapping[str, torch.Tensor]
) -> tuple[LayerSize, ...]:
    """Bytes per layer before and after, in the order of ``baseline``, new layers at the end.

    A tensor ``layer1.0.conv1.weight`` belongs to the layer ``layer1.0.conv1``; so does every
    tensor of ``result`` below that name, whatever quantization called it. A layer that is gone
    has 0 bytes after.
    """
    before = _by_layer(baseline, ())
    after = _by_layer(result, before)
    return tuple(
        LayerSize(name=name, baseline_bytes=before.get(name, 0), bytes=after.get(name, 0))
        for name in dict.fromkeys((*before, *after))
    )


def _by_layer(tensors: Mapping[str, torch.Tensor], known: Collection[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, tensor in tensors.items():
        layer = _layer(name, known)
        found[layer] = found.get(layer, 0) + _bytes(tensor)
    return found


def _layer(tensor: str, known: Collection[str]) -> str:
    """The innermost layer above the tensor, of the ``known`` ones if any is above it."""
    above = tensor
    while above := above.rpartition(".")[0]:
        if above in known:
            return above
    return tensor.rpartition(".")[0] or UNNAMED


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@contextmanager
def _in_eval_mode(module: torch.nn.Module) -> Iterator[None]:
    training = [each for each in module.modules() if each.training]
    for each in training:
        each.training = False
    try:
        yield
    finally:
        for each in training:
            each.training = True


@contextmanager
def _countable() -> Iterator[None]:
    """Attention as the plain matrix products that the counter knows, not as one fused kernel."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
