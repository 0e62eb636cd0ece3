"""Single weights become zero: the smallest of all (magnitude), or two of every four (2:4).

    weights of convolutions, linear layers, attention ─→ masks ─→ zeros in the weights
    recovery trains the others: zeros get no gradient

Tensors keep their shapes. Zeros save nothing by themselves on a dense kernel.
"""

from __future__ import annotations

import copy
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


@dataclass(frozen=True)
class Weight:
    """One weight that may become sparse: ``getattr(part, tensor)``, ``[outputs, inputs, ...]``."""

    layer: str
    part: nn.Module
    tensor: str

    @property
    def data(self) -> torch.Tensor:
        return self.part.get_parameter(self.tensor).data


def magnitude(work: Work, step: Prune, job: Job) -> Work:
    """The ``step.ratio`` of weights with the smallest magnitude becomes zero, of all layers
    together or of each (LeCun et al. 1990 for the idea; Han et al. 2015, "Learning both Weights
    and Connections", for magnitudes and the iterations). CompressionError if no layer is left."""
    ratio = step.ratio or 0.0

    def thin(weights: list[Weight], share: float) -> None:
        pairs = [(each.part, each.tensor) for each in weights]
        if step.scope == "global":
            masks.global_unstructured(pairs, masks.L1Unstructured, amount=ratio * share)
        else:
            for part, tensor in pairs:
                masks.l1_unstructured(part, tensor, amount=ratio * share)
        # A module copies and saves only without its masks; zeros stay the smallest weights.
        for part, tensor in pairs:
            masks.remove(part, tensor)

    return _sparse(work, step, job, lambda weight: True, thin)


def semi_structured(work: Work, step: Prune, job: Job) -> Work:
    """Of every four weights along the input dimension the two with the smallest magnitude become
    zero (Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks"); stored dense.

    Layers whose inputs do not come in fours stay whole; CompressionError if all do.
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
    """0/1 mask of ``weight`` ``[outputs, inputs, ...]``: in every four along the inputs, the two
    with the largest magnitude, of equal ones the first."""
    along = weight.abs().movedim(1, -1)
    fours = along.reshape(*along.shape[:-1], -1, 4)
    order = fours.argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(fours).scatter_(-1, order[..., :2], 1)
    return kept.reshape(along.shape).movedim(-1, 1)


def _sparse(
    work: Work,
    step: Prune,
    job: Job,
    fits: Callable[[Weight], bool],
    thin: Callable[[list[Weight], float], None],
) -> Work:
    """``thin(weights, share)`` sets the smallest weights to zero, for ``share`` of the way."""
    module = copy.deepcopy(work.module).eval()
    weights = _weights(module, work, step, fits)
    _analyse(module, weights, thin, job)
    for iteration in range(1, step.iterations + 1):
        thin(weights, iteration / step.iterations)
        recalibrate(module, step.recalibration_samples, job)
        if step.recovery is not None:
            with _zeros_held(weights):
                recover(module, step.recovery, job, work.inputs)
            module.eval()
    share = {each.layer: float((each.data == 0).float().mean()) for each in weights}
    job.details["sparsity"] = share
    zeros = sum(int((each.data == 0).sum()) for each in weights)
    total = sum(each.data.numel() for each in weights)
    job.out(f"prune    {zeros / total:.1%} of {total:,} weights in {len(weights)} layers are 0")
    return Work.of(module, work.inputs)


def _weights(
    module: nn.Module, work: Work, step: Prune, fits: Callable[[Weight], bool]
) -> list[Weight]:
    example = tuple(torch.from_numpy(spec.zeros(2)) for spec in work.inputs)
    head = find_head(module, example)
    spared = {head, *matching(module, step.spare, "spare")}
    found = [Weight(name, part, "weight") for name, part in prunable(module).items()]
    found += [
        Weight(name, part, "in_proj_weight")
        for name, part in module.named_modules()
        if isinstance(part, nn.MultiheadAttention) and part.in_proj_weight is not None
    ]
    left = [each for each in found if each.layer not in spared]
    if not left:
        others = "and spare leaves the others whole; spare fewer" if step.spare else "the only one"
        raise CompressionError(
            f"prune: there is nothing to prune: of {len(found)} layers with weights {head} is the "
            f"head, {others}, or remove the step"
        )
    fitting = [each for each in left if fits(each)]
    if not fitting:
        sizes = ", ".join(f"{each.layer} {each.data.shape[1]}" for each in left[:5])
        raise CompressionError(
            f"prune: 2:4 needs layers whose number of inputs divides by 4, but they have: {sizes}; "
            "use method magnitude"
        )
    return fitting


@contextmanager
def _zeros_held(weights: list[Weight]) -> Iterator[None]:
    """While it lasts zeros get no gradient; after it they are zeros, wherever it was trained."""
    kept = [(each.data != 0).to(each.data.dtype) for each in weights]
    hooks = [
        each.part.get_parameter(each.tensor).register_hook(lambda grad, mask=mask: grad * mask)
        for each, mask in zip(weights, kept, strict=True)
        if each.part.get_parameter(each.tensor).requires_grad
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for each, mask in zip(weights, kept, strict=True):
        each.data.mul_(mask)


def _analyse(
    module: nn.Module,
    weights: list[Weight],
    thin: Callable[[list[Weight], float], None],
    job: Job,
) -> None:
    by_layer: dict[str, list[Weight]] = {}
    for each in weights:
        by_layer.setdefault(each.layer, []).append(each)

    @contextmanager
    def alone(layer: str) -> Iterator[None]:
        before = [each.data.clone() for each in by_layer[layer]]
        thin(by_layer[layer], 1.0)
        try:
            yield
        finally:
            for each, values in zip(by_layer[layer], before, strict=True):
                each.data.copy_(values)

    job.details["sensitivity"] = sensitivity(module, list(by_layer), alone, job)
