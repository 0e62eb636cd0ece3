"""Structured pruning: channels and attention heads are removed, so tensors become smaller.

copy of the model ─→ shortcuts.replace ─→ ChannelPruner
    each iteration: remove → verify the outputs → recalibrate → recover
─→ smaller model; the original is unchanged
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import nn

from cluster.compression.equivalence import check_rewrite
from cluster.compression.evaluation.costs import macs_of
from cluster.compression.layers import matching
from cluster.compression.probes import Probes
from cluster.compression.pruning.channels import ChannelPruner, CoupledLayers, zeroed
from cluster.compression.pruning.head import find_head, outputs_of, prunable
from cluster.compression.pruning.recalibration import recalibrate
from cluster.compression.pruning.shortcuts import replace_padded_shortcuts
from cluster.compression.pruning.tracking import layer_errors, verify
from cluster.compression.sensitivity import sensitivity
from cluster.compression.training.losses import usual_loss
from cluster.compression.training.train import recover
from cluster.compression.work import Job, Work
from cluster.config.steps import Prune
from cluster.errors import CompressionError
from cluster.models import copy_of
from cluster.tensors import TensorSpec

_TAYLOR_BATCHES = 8
_BATCH = 32
_RATIO_STEP = 0.01
_MOST = 0.95
"""Maximum share of the channels to remove for a speed-up."""


def structured(work: Work, step: Prune, job: Job) -> Work:
    """Remove the least important channels and heads.

    The step ends when ``step.ratio`` of them are removed, or the model needs ``step.speedup`` times
    fewer multiply-accumulates. Outputs of the head, of layers added to it, and of ``step.spare``
    are never removed; their inputs follow the layers before. Heads of Transformers' BERT-like
    attention are removed as a whole. Heads of ``nn.MultiheadAttention``, whose number is fixed, get
    narrower.

    CompressionError, with the original model unchanged, if nothing can be pruned, the ratio leaves
    a layer empty, or the channels cannot be traced through the model's code.
    """
    module = copy_of(work.module).eval()
    arrays, _ = job.train.batch(range(min(2, len(job.train))))
    example = tuple(torch.from_numpy(array) for array in arrays)
    frozen = {name for name, tensor in module.named_parameters() if not tensor.requires_grad}
    replaced = replace_padded_shortcuts(module, example)
    if replaced:
        names = ", ".join(replaced)
        check_rewrite(
            module,
            work.module.eval(),
            job.probes,
            f"the model with padded shortcuts as convolutions ({names})",
            "use method magnitude",
        )
    for name in replaced:
        job.out(f"prune    {name}: padded shortcut as a convolution, outputs unchanged")
    frozen |= {f"{name}.weight" for name in replaced}
    head = find_head(module, example)
    spared = matching(module, step.spare, "spare")
    ignored = [module.get_submodule(name) for name in (head, *spared)]
    before = _widths(module)
    with layer_errors(module), _differentiable(module, frozen):
        _gradients(module, step, job)
        pruner = ChannelPruner(
            module,
            example,
            step.importance,
            ignored,
            everywhere=step.scope == "global",
            round_to=step.round_to,
        )
        layers = list(pruner.coupled_layers())
    _check_prunable(module, layers, step, head, spared)
    _analyse(module, layers, step, job)
    full_macs = macs_of(work.module, work.inputs)  # without the shortcuts' convolutions
    removal = _Removal(pruner, step, work.inputs, job.probes.few(), full_macs)
    for iteration in range(1, step.iterations + 1):
        with _differentiable(module, frozen):
            if iteration > 1:
                _gradients(module, step, job)
            removal.reach(iteration / step.iterations)
        module.zero_grad(set_to_none=True)
        if removal.begun:
            recalibrate(module, step.recalibration_samples, job)
            if step.recovery is not None:
                recover(module, step.recovery, job, work.inputs)
                module.eval()
    after = _widths(module)
    changed = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
    if not changed:
        raise CompressionError(
            f"prune: nothing was removed: with round_to={step.round_to} every layer keeps at least "
            f"{step.round_to} channels and loses multiples of {step.round_to}; lower round_to, or "
            "raise the ratio or speedup"
        )
    job.details["pruned"] = changed
    macs = macs_of(module, work.inputs)
    job.out(
        f"prune    {len(changed)} of {len(before)} layers narrower, {full_macs / macs:.2f} times "
        "fewer multiply-accumulates"
    )
    return Work.of(module, work.inputs)


class _Removal:
    """Progressive removal, up to the step's ratio or speed-up."""

    def __init__(
        self,
        pruner: ChannelPruner,
        step: Prune,
        inputs: tuple[TensorSpec, ...],
        probes: Probes,
        full_macs: int,
    ) -> None:
        self._pruner = pruner
        self._step = step
        self._inputs = inputs
        self._probes = tuple(map(torch.from_numpy, probes.inputs))
        self._full_macs = full_macs
        self._ratio = 0.0
        self._verified = False
        """Whether a removal of this iteration was made, and its outputs were verified."""
        self.begun = False
        """Whether a removal of any iteration was made."""

    def reach(self, share: float) -> None:
        """Remove up to ``share``, 0..1, of the goal; the share of a speed-up is an exponent."""
        step, self._verified = self._step, False
        if step.ratio is not None:
            self._remove(step.ratio * share)
            return
        speedup = step.speedup or 1.0
        while (
            macs := macs_of(self._pruner.model, self._inputs)
        ) > self._full_macs / speedup**share:
            self._ratio += _RATIO_STEP
            if self._ratio > _MOST:
                raise CompressionError(
                    f"prune: speedup={speedup:g} cannot be reached: without {_MOST:.0%} of the "
                    f"channels it is {self._full_macs / macs:.2f}; lower speedup, spare fewer "
                    f"layers or lower round_to={step.round_to}"
                )
            self._remove(self._ratio)

    def _remove(self, ratio: float) -> None:
        if self._verified:
            self._pruner.remove(ratio)
            return
        whole = copy_of(self._pruner.model)
        with layer_errors(self._pruner.model):
            removed = self._pruner.remove(ratio)
        if removed:
            verify(whole, self._pruner.model, removed, self._probes)
            self._verified = self.begun = True


def _widths(module: nn.Module) -> dict[str, int]:
    """Return layer → output channels."""
    return {name: outputs_of(layer) for name, layer in prunable(module).items()}


@contextmanager
def _differentiable(module: nn.Module, frozen: set[str]) -> Iterator[None]:
    """Let every parameter require a gradient, for tracing; afterwards all but the frozen ones."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    with torch.enable_grad():
        yield
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)


def _gradients(module: nn.Module, step: Prune, job: Job) -> None:
    """Fill ``.grad`` with gradients of the loss with labels over training batches, for Taylor."""
    if step.importance != "taylor":
        return
    metric, activation = job.recipe.evaluation.metrics[0], job.model.activation
    loss = usual_loss(activation)
    order = np.random.default_rng(job.seed).permutation(len(job.train))
    module.zero_grad(set_to_none=False)
    for start in range(0, min(len(order), _BATCH * _TAYLOR_BATCHES), _BATCH):
        arrays, labels = job.train.batch(order[start : start + _BATCH])
        outputs = module(*(torch.from_numpy(array) for array in arrays))
        embeds = metric in ("cosine", "ranking")
        if embeds or (activation == "softmax" and int(labels.max()) >= outputs.shape[1]):
            raise CompressionError(
                "prune: importance taylor needs the gradient of a loss with labels, but the model "
                f"returns embeddings ({outputs.shape[1]} numbers, metric {metric}), not classes; "
                "use importance magnitude"
            )
        loss(outputs, torch.from_numpy(labels)).backward()
    for parameter in module.parameters():
        if parameter.grad is None:  # a layer that the forward does not use
            parameter.grad = torch.zeros_like(parameter)


def _check_prunable(
    module: nn.Module,
    layers: Sequence[CoupledLayers],
    step: Prune,
    head: str,
    spared: Sequence[str],
) -> None:
    if not layers:
        if step.importance == "bn":
            reason = "no layer has a batch normalization behind it; use importance magnitude"
        elif spared:
            reason = f"spare excludes all {len(prunable(module))} layers; spare fewer"
        else:
            reason = f"all layers are coupled to the output of the head {head}; remove the step"
        raise CompressionError(f"prune: there is nothing to prune: {reason}")
    if step.ratio is None:
        return
    narrowest = min(layers, key=lambda layer: layer.channels)
    if step.scope == "local" and int(narrowest.channels * (1 - step.ratio)) < 1:
        raise CompressionError(
            f"prune: ratio={step.ratio:g} leaves less than one of the {narrowest.channels} "
            f"channels of {narrowest.name}; use at most {1 - 1 / narrowest.channels:.3g}, or "
            "spare it"
        )
    channels = sum(layer.channels for layer in layers)
    if int(channels * (1 - step.ratio)) < len(layers):
        raise CompressionError(
            f"prune: ratio={step.ratio:g} leaves less than one channel in each of {len(layers)} "
            f"layers, which have {channels}; use at most {1 - len(layers) / channels:.3g}"
        )


def _analyse(module: nn.Module, layers: Sequence[CoupledLayers], step: Prune, job: Job) -> None:
    """Record the sensitivity of each layer alone, pruned by the step's ratio.

    A speed-up corresponds to the ratio ``1 - 1/√speedup`` of layers that shrink on both sides.
    """
    ratio = step.ratio if step.speedup is None else 1 - step.speedup**-0.5
    by_name = {layer.name: layer for layer in layers}

    def disturb(name: str) -> AbstractContextManager[None]:
        return zeroed(by_name[name].weakest(ratio or 0.0))

    job.details["sensitivity"] = sensitivity(module, list(by_name), disturb, job)
