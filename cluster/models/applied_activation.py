"""Refusal of a user's module that applies its activation itself; serving would apply it again.

    copy, with gradients → last operation of forward: softmax? sigmoid?
    answer to zeros      → rows that sum to 1?

A model without activation may end in anything: its numbers are served as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cluster.activation import OutputActivation
from cluster.errors import SourceError
from cluster.models import forward
from cluster.models.copying import copy_of
from cluster.tensors import TensorSpec

_LAST: dict[str, OutputActivation] = {
    "SoftmaxBackward": "softmax",
    "SigmoidBackward": "sigmoid",
}
"""Beginning of the name of a gradient's node → activation."""

_LAYOUT = ("View", "Reshape", "UnsafeView", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "Alias")
"""Beginnings of the names of nodes that change no value."""

_SUM_ROUNDING = 1e-4


def check(
    module: nn.Module, inputs: Sequence[TensorSpec], activation: OutputActivation, name: str
) -> None:
    """Raise SourceError if forward ends in an activation and the model's is not ``none``.

    ``module`` accepts zeros of ``inputs`` and answers FP32 ``[batch, n]``.
    """
    if activation == "none":
        return
    answer = _answer(module, inputs)
    applied = _applied(answer)
    if applied is not None:
        inverse = "torch.log(p)" if applied == "softmax" else "torch.logit(p)"
        raise SourceError(
            f"{name}: forward ends in {applied}, and model.activation: {activation} would be "
            f"applied to its probabilities; let it return logits (leave {applied} out, or return "
            f"{inverse}) with model.activation: {applied}. Nothing was built"
        )


def _answer(module: nn.Module, inputs: Sequence[TensorSpec]) -> torch.Tensor:
    """Return the answer of a copy to zeros, if possible with the history of its operations."""
    with forward.random_states():
        try:
            return _run(module, inputs, gradients=True)
        # A forward that runs without gradients may raise anything with them, as for .numpy().
        except Exception:  # noqa: BLE001 - the answer alone is judged then
            return _run(module, inputs, gradients=False)


def _run(module: nn.Module, inputs: Sequence[TensorSpec], *, gradients: bool) -> torch.Tensor:
    copy = copy_of(module)
    for parameter in copy.parameters():
        parameter.requires_grad_(gradients and parameter.is_floating_point())
    with torch.set_grad_enabled(gradients):
        zeros = [torch.from_numpy(spec.zeros(1)) for spec in inputs]
        answer: torch.Tensor = copy(
            *(
                # A leaf with a gradient could not be written to, which a forward may do.
                tensor.requires_grad_(gradients).clone() if tensor.is_floating_point() else tensor
                for tensor in zeros
            )
        )
    return answer


def _applied(answer: torch.Tensor) -> OutputActivation | None:
    node = answer.grad_fn
    while node is not None and node.name().startswith(_LAYOUT):
        node = node.next_functions[0][0]
    name = "" if node is None else node.name()
    for beginning, activation in _LAST.items():
        if name.startswith(beginning):
            return activation
    rows = answer.detach()
    sums = (rows.sum(dim=1) - 1).abs().max()
    if rows.shape[1] > 1 and rows.min() >= 0 and sums <= _SUM_ROUNDING:
        return "softmax"
    return None
