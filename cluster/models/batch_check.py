"""Check of a module before anything is made from it: it computes each item of a batch by itself.

module → copy → independence.find, on noise or samples → refusal, with the layer that mixes
              → parameters and buffers as before?      → refusal, with the buffer that changes
              → inputs as before?                      → refusal
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cluster import independence
from cluster.errors import SourceError
from cluster.independence import Dependence, Inputs
from cluster.models import faults, forward
from cluster.models.dependent_part import changing_part, mixing_part
from cluster.models.forward import Eager
from cluster.tensors import TensorSpec

_ADVICE = {
    "state": "; serving needs one answer to one input: draw random numbers in training mode only "
    "(F.dropout(x, training=self.training)), and keep nothing between calls that changes an answer",
    "single": "; serving runs single items, too: let forward run on a batch of 1, with no layer in "
    "training mode, and keep the batch as the first dimension",
}
_BY_ITSELF = "let forward compute each item by itself, with the batch as the first dimension"
_OR_ONE = ", or set model.max_batch_size: 1, with which programs and servers run one item at a time"
_REPEATS = 32
"""Runs on one input of a module that draws random numbers, whose effect may be rare."""

_OF_A_NORM = ", which uses the batch's own statistics: it needs eval mode and running statistics"


def check(
    module: nn.Module,
    specs: Sequence[TensorSpec],
    name: str,
    *,
    samples: Sequence[np.ndarray] | None = None,
    largest: int = independence.LARGEST_BATCH,
) -> Inputs:
    """Raise SourceError unless the module's answer to an item depends on nothing but the item.

    ``module`` is in eval mode, and unchanged afterwards. ``name``: of the model, for messages.
    ``samples``: one array ``[N, ...]`` per input; None: noise. ``largest``: largest batch size; 1
    for a model whose programs run one item at a time. Return the inputs of the check, without those
    that the module cannot take.
    """
    with forward.random_states():
        run = Eager(module)
        inputs = Inputs.of(samples if samples is not None else _noise(run, specs)).accepted(run)
        dependence = independence.find(run, inputs, largest, fresh=Eager(module))
        if run.drew and (dependence is None or dependence.kind != "single"):
            draws = independence.find(run, inputs, 1, repeats=_REPEATS)
            dependence = draws or dependence
        changed = _changed(module, run)
        if dependence is not None:
            advice = _ADVICE.get(dependence.kind)
            if advice is None:
                advice = f"; {_BY_ITSELF}{'' if changed else _OR_ONE}"
            part = _first_part(module, inputs, dependence)
            raise SourceError(f"{name}: {dependence.reason}{part}{advice}")
        if changed:
            raise SourceError(
                f"{name}: forward changes {changed} in eval mode, so an answer may depend on "
                "earlier requests; change it in training mode only (if self.training: ...)"
            )
        if run.overwritten:
            raise SourceError(
                f"{name}: forward writes into its input, whose memory belongs to the request; "
                "compute a new tensor (x = x / 255 in place of x /= 255, or inplace=False)"
            )
    return inputs


def _noise(run: Eager, specs: Sequence[TensorSpec]) -> list[np.ndarray]:
    """Return the widest noise that the module takes; zeros, which it may refuse, at the last."""
    *wide, zeros = independence.noise(specs)
    for samples in wide:
        rows = [[array[i : i + 1] for array in samples] for i in range(len(samples[0]))]
        if all(independence.runs(run, row) for row in rows):
            return samples
    return zeros


def _first_part(module: nn.Module, inputs: Inputs, dependence: Dependence) -> str:
    """Return a clause with the layer whose answer depends on more than its item, or ""."""
    item, *others = inputs.items
    part = None
    if dependence.kind == "state":
        part = changing_part(module, item, (others or [item])[-1])
    elif dependence.kind == "batch":
        parts = (mixing_part(module, item, mate) for mate in inputs.mates.values())
        part = next(filter(None, parts), None)
    if part is None:
        return ""
    norm = isinstance(part, _BatchNorm)
    return f", first in {faults.described(part, module)}{_OF_A_NORM if norm else ''}"


def _changed(module: nn.Module, run: Eager) -> str:
    """Return the first parameter or stored buffer that the runs changed, or ""."""
    after = run.module.state_dict()
    for name, before in module.state_dict().items():
        if not _equal(before, after[name]):
            return name
    return ""


def _equal(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Return whether both have the same values, NaN in the same places included."""
    if torch.equal(one, two):
        return True
    if not one.is_floating_point() or not torch.equal(one.isnan(), two.isnan()):
        return False
    return torch.equal(one.nan_to_num(), two.nan_to_num())
