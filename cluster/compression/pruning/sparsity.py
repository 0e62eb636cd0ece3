"""Sparsity: the smallest weights become zero (magnitude), or two of every four (2:4).

    weights of convolutions, linear layers, attention ─→ masks ─→ zeros in the weights
    recovery trains the others: zeros get no gradient

Tensors keep their shapes. Zeros save no time on a dense kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import prune as masks

from cluster.compression.layers import matching
from cluster.compression.pruning.head import find_head, prunable
from cluster.compression.pruning.recalibration import recalibrate
from cluster.compression.sensitivity import sensitivity
from cluster.compression.training.train import recover
from cluster.compression.work import Job, Work
from cluster.config.steps import Prune
from cluster.errors import CompressionError
from cluster.models import copy_of


@dataclass(frozen=True)
class Weight:
    """Weight that may become sparse: ``getattr(part, tensor)``, ``[outputs, inputs, ...]``."""

    layer: str
    part: nn.Module
    tensor: str

    @property
    def data(self) -> torch.Tensor:
        return self.part.get_parameter(self.tensor).data


def magnitude(work: Work, step: Prune, job: Job) -> Work:
    """Set the share ``step.ratio`` of weights with the smallest magnitude to zero.

    The share is of all layers together or of each layer (LeCun et al. 1990 for the idea; Han et al.
    2015, "Learning both Weights and Connections", for magnitudes and iterations). CompressionError
    if no layer is left to prune.
    """
    ratio = step.ratio or 0.0

    def thin(weights: list[Weight], share: float) -> None:
        pairs = [(weight.part, weight.tensor) for weight in weights]
        if step.scope == "global":
            masks.global_unstructured(pairs, masks.L1Unstructured, amount=ratio * share)
        else:
            for part, tensor in pairs:
                masks.l1_unstructured(part, tensor, amount=ratio * share)
        # A module can be copied and saved only without masks; zeros stay the smallest weights.
        for part, tensor in pairs:
            masks.remove(part, tensor)

    return _sparse(work, step, job, lambda weight: True, thin)


def semi_structured(work: Work, step: Prune, job: Job) -> Work:
    """Set the two smallest of every four weights along the input dimension to zero.

    Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks"; weights are stored dense. Layers
    whose number of inputs is no multiple of 4 are not pruned. CompressionError if that is all.
    """
    job.out(
        "prune    2:4 weights are stored dense: only sparse CUDA kernels would compute them "
        "faster, and no kind of program here uses them"
    )

    def thin(weights: list[Weight], _: float) -> None:
        for weight in weights:
            weight.data.mul_(two_of_four(weight.data))

    return _sparse(work, step, job, lambda weight: weight.data.shape[1] % 4 == 0, thin)


def two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """Return the 2:4 mask (0/1) of ``weight`` ``[outputs, inputs, ...]``.

    It selects the two largest magnitudes of every four along the inputs, of equal ones the first.
    """
    along = weight.abs().movedim(1, -1)
    fours = along.reshape(*along.shape[:-1], -1, 4)
    order = fours.argsort(dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(fours).scatter_(-1, order[..., :2], 1)
    return mask.reshape(along.shape).movedim(-1, 1)


def _sparse(
    work: Work,
    step: Prune,
    job: Job,
    fits: Callable[[Weight], bool],
    thin: Callable[[list[Weight], float], None],
) -> Work:
    """Prune a copy with ``thin(weights, share)``, which reaches ``share`` of the step's ratio."""
    module = copy_of(work.module).eval()
    weights = _weights(module, work, step, fits)
    _analyse(module, weights, thin, job)
    for iteration in range(1, step.iterations + 1):
        thin(weights, iteration / step.iterations)
        recalibrate(module, step.recalibration_samples, job)
        if step.recovery is not None:
            with _frozen_zeros(weights):
                recover(module, step.recovery, job, work.inputs)
            module.eval()
    job.details["sparsity"] = {w.layer: float((w.data == 0).float().mean()) for w in weights}
    zeros = sum(int((weight.data == 0).sum()) for weight in weights)
    total = sum(weight.data.numel() for weight in weights)
    job.out(f"prune    {zeros / total:.1%} of {total:,} weights in {len(weights)} layers are 0")
    return Work.of(module, work.inputs)


def _weights(
    module: nn.Module, work: Work, step: Prune, fits: Callable[[Weight], bool]
) -> list[Weight]:
    example = tuple(torch.from_numpy(spec.zeros(2)) for spec in work.inputs)
    head = find_head(module, example)
    spared = {head, *matching(module, step.spare, "spare")}
    weights = [Weight(name, part, "weight") for name, part in prunable(module).items()]
    weights += [
        Weight(name, part, "in_proj_weight")
        for name, part in module.named_modules()
        if isinstance(part, nn.MultiheadAttention) and part.in_proj_weight is not None
    ]
    candidates = [weight for weight in weights if weight.layer not in spared]
    if not candidates:
        others = "and spare excludes the others; spare fewer" if step.spare else "the only one"
        raise CompressionError(
            f"prune: there is nothing to prune: of {len(weights)} layers with weights {head} is "
            f"the head, {others}, or remove the step"
        )
    fitting = [weight for weight in candidates if fits(weight)]
    if not fitting:
        sizes = ", ".join(f"{weight.layer} {weight.data.shape[1]}" for weight in candidates[:5])
        raise CompressionError(
            f"prune: 2:4 needs layers whose number of inputs divides by 4, but they have: {sizes}; "
            "use method magnitude"
        )
    return fitting


@contextmanager
def _frozen_zeros(weights: list[Weight]) -> Iterator[None]:
    """Block gradients of zero weights; set them to zero again at the end.

    Hooks do not reach other processes, so a data-parallel training may change zeros.
    """
    pairs = [(weight, (weight.data != 0).to(weight.data.dtype)) for weight in weights]
    hooks = [
        weight.part.get_parameter(weight.tensor).register_hook(lambda grad, mask=mask: grad * mask)
        for weight, mask in pairs
        if weight.part.get_parameter(weight.tensor).requires_grad
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for weight, mask in pairs:
        weight.data.mul_(mask)


def _analyse(
    module: nn.Module,
    weights: list[Weight],
    thin: Callable[[list[Weight], float], None],
    job: Job,
) -> None:
    by_layer: dict[str, list[Weight]] = {}
    for weight in weights:
        by_layer.setdefault(weight.layer, []).append(weight)

    @contextmanager
    def alone(layer: str) -> Iterator[None]:
        before = [weight.data.clone() for weight in by_layer[layer]]
        thin(by_layer[layer], 1.0)
        try:
            yield
        finally:
            for weight, values in zip(by_layer[layer], before, strict=True):
                weight.data.copy_(values)

    job.details["sensitivity"] = sensitivity(module, list(by_layer), alone, job)
