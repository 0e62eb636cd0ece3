"""Storage and computation of a model: parameters, bytes, multiply-accumulates.

module + weights ─ size_of ─→ ModelSize;  baseline + result weights ─ layer_sizes ─→ LayerSize
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cluster.compression.record import LayerSize, ModelSize
from cluster.models.forward import Eager
from cluster.tensors import TensorSpec

UNNAMED = "(whole model)"
"""Layer name of tensors outside every layer."""


def size_of(
    module: torch.nn.Module,
    inputs: Sequence[TensorSpec],
    weights: Mapping[str, torch.Tensor],
    macs: int | None = None,
) -> ModelSize:
    """Count ``module``'s parameters and multiply-accumulates, and the bytes of ``weights``.

    ``inputs``: the module's inputs. ``weights``: the stored tensors, which differ from the module's
    for a quantized model. ``macs``: multiply-accumulates of one item, if already known.
    """
    parameters = list(module.parameters())
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in parameters),
        nonzero=sum(int(parameter.count_nonzero()) for parameter in parameters),
        weight_bytes=sum(_bytes(tensor) for tensor in weights.values()),
        macs=macs_of(module, inputs) if macs is None else macs,
    )


def macs_of(module: torch.nn.Module, inputs: Sequence[TensorSpec]) -> int:
    """Return the multiply-accumulates of one item, in convolutions, matrix products and attention.

    One multiply-accumulate is two floating-point operations. Zero weights count, because a dense
    kernel multiplies by them, too.
    """
    run = Eager(module)
    for part in run.module.modules():
        part.training = False
    counter = FlopCounterMode(display=False)
    with _countable(), counter:
        run.answer([spec.zeros(1) for spec in inputs])
    return counter.get_total_flops() // 2


def layer_sizes(
    baseline: Mapping[str, torch.Tensor], result: Mapping[str, torch.Tensor]
) -> tuple[LayerSize, ...]:
    """Return bytes per layer before and after, in the order of ``baseline``, new layers last.

    A tensor ``layer1.0.conv1.weight`` belongs to the layer ``layer1.0.conv1``, as does every
    tensor of ``result`` below that name. A removed layer has 0 bytes after.
    """
    before = _by_layer(baseline, ())
    after = _by_layer(result, before)
    return tuple(
        LayerSize(name=name, baseline_bytes=before.get(name, 0), bytes=after.get(name, 0))
        for name in dict.fromkeys((*before, *after))
    )


def _by_layer(tensors: Mapping[str, torch.Tensor], known: Collection[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        layer = _layer(name, known)
        sizes[layer] = sizes.get(layer, 0) + _bytes(tensor)
    return sizes


def _layer(tensor: str, known: Collection[str]) -> str:
    """Return the tensor's innermost layer of ``known``, else its direct parent."""
    above = tensor
    while above := above.rpartition(".")[0]:
        if above in known:
            return above
    return tensor.rpartition(".")[0] or UNNAMED


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@contextmanager
def _countable() -> Iterator[None]:
    """Run attention as matrix products, which the counter knows, instead of a fused kernel."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
