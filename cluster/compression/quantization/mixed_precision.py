"""Layers that a scheme leaves in bfloat16: those of the recipe, and the most sensitive ones.

keep: patterns ────────────┐
                           ├→ bfloat16 layers, in the model's order
keep_most_sensitive: n ────┘
  └ each layer rounded alone → score drop → the n largest
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import nn

from cluster.compression.layers import matching
from cluster.compression.quantization.fake_quantize import fake_quantized
from cluster.compression.quantization.scheme import Scheme
from cluster.compression.sensitivity import MOST_LAYERS, sensitivity
from cluster.compression.work import Job
from cluster.config.steps import Quantize
from cluster.errors import CompressionError


def bfloat16_layers(module: nn.Module, scheme: Scheme, step: Quantize, job: Job) -> tuple[str, ...]:
    """Return the names of layers that stay in bfloat16, of those that ``scheme`` would quantize.

    A pattern that names a block selects all of its layers. ``job.details`` gets ``kept`` and
    ``sensitivity``. CompressionError if a pattern matches no layer that the scheme quantizes, or
    if ``keep_most_sensitive`` exceeds the number of measured layers.
    """
    layers = scheme.layers(module)
    chosen = named_layers(module, scheme, step)
    rounding = scheme.rounding
    if step.keep_most_sensitive and rounding is not None:

        def disturb(layer: str) -> AbstractContextManager[nn.Module]:
            return fake_quantized(module, [layer], rounding)

        others = [name for name in layers if name not in chosen]
        if len(others) > MOST_LAYERS < step.keep_most_sensitive:
            raise CompressionError(
                f"quantize.keep_most_sensitive={step.keep_most_sensitive}, but only {MOST_LAYERS} "
                f"of the {len(others)} layers are measured; use at most {MOST_LAYERS}, or name "
                "layers in keep"
            )
        drops = sensitivity(module, others, disturb, job)
        job.details["sensitivity"] = drops
        ranked = sorted(drops, key=lambda name: drops[name], reverse=True)
        chosen |= set(ranked[: step.keep_most_sensitive])
    ordered = tuple(name for name in layers if name in chosen)
    if ordered:
        job.details["kept"] = list(ordered)
        job.out(f"kept     in bfloat16: {', '.join(ordered)}")
    return ordered


def named_layers(module: nn.Module, scheme: Scheme, step: Quantize) -> set[str]:
    """Return the layers that ``step.keep`` names; errors as in :func:`bfloat16_layers`."""
    layers = scheme.layers(module)
    chosen: set[str] = set()
    for pattern in step.keep:
        matches = matching(module, [pattern], "quantize.keep")
        inside = {
            layer
            for layer in layers
            if any(layer == name or layer.startswith(f"{name}.") for name in matches)
        }
        if not inside:
            raise CompressionError(
                f"quantize.keep: {pattern!r} matches {', '.join(matches[:5])}, none of which "
                f"{step.scheme} would quantize; the layers it quantizes are "
                f"{', '.join(layers[:5])}{', ...' if len(layers) > 5 else ''}"
            )
        chosen |= inside
    return chosen
