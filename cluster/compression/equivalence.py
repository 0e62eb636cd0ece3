"""Comparison of a rewritten model with the one that it was made from, before anything is rounded.

module ─→ library ─→ rewritten module or graph ─ the same outputs on the probes? ─→ next step

Exporters, folding, converters and pruning rewrite a model, and sometimes they change it. A later
comparison would take the changed model for the truth, so each rewrite is compared at once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from cluster.compression.probes import (
    MAX_FLOAT_DIFFERENCE,
    MAX_HALF_DIFFERENCE,
    Probes,
    difference,
    in_batches,
)
from cluster.errors import CompressionError
from cluster.models import faults
from cluster.models.forward import Eager

Model = Callable[..., object]
"""Module or graph: input tensors ``[batch, ...]`` to outputs."""


def outputs_of(model: Model, probes: Probes) -> list[np.ndarray]:
    """Return the outputs ``[items, ...]`` of ``model`` for the probes, in float.

    A module runs as a copy, so that its forward keeps nothing; ForwardError if it raises.
    """
    if isinstance(model, torch.nn.Module) and not isinstance(model, GraphModule):
        return in_batches(Eager(model), probes.inputs, probes.batch)

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            leaves = pytree.tree_leaves(model(*map(torch.from_numpy, arrays)))
        return [leaf.double().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]

    return in_batches(run, probes.inputs, probes.batch)


def check_rewrite(
    rewritten: Model, model: torch.nn.Module, probes: Probes, description: str, advice: str
) -> None:
    """Raise CompressionError unless ``rewritten`` computes the same as ``model`` on the probes.

    ``description``: the rewritten model as a noun phrase. ``advice``: what to change.
    """
    expected = outputs_of(model, probes)
    limit = limit_of(model)
    with faults.named(f"{description} cannot run", advice):
        distance = difference(outputs_of(rewritten, probes), expected)
    if distance <= limit:
        return
    again = difference(outputs_of(model, probes), expected)
    if not again <= limit:
        raise CompressionError(
            f"the model answers the same {probes.described} differently from run to run, by "
            f"{again:.4g} of the outputs' spread, so nothing that is made from it can be checked; "
            "use dropout and sampling only while `self.training` is True"
        )
    raise CompressionError(
        f"{description} is not the model: before anything is rounded, its outputs differ by "
        f"{distance:.4g} of their spread on {probes.described}, at most {limit:g} is the order of "
        f"sums; {advice}"
    )


def limit_of(model: torch.nn.Module) -> float:
    """Return the maximum difference of a faithful rewrite of ``model``, by its precision."""
    tensors = (*model.parameters(), *model.buffers())
    half = any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in tensors)
    return MAX_HALF_DIFFERENCE if half else MAX_FLOAT_DIFFERENCE
