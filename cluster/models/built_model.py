"""Result of every kind of model source, and the inputs that a recipe declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from cluster.activation import OutputActivation
from cluster.config.sources import ImageInput, ModelSource, TextInput
from cluster.errors import SourceError
from cluster.models.cards import CardAccuracy
from cluster.tensors import BATCH, TensorSpec


@dataclass(frozen=True)
class BuiltModel:
    """A module as built by its source, before the probe.

    ``labels``: names of the weights' outputs, or empty. ``output``: kind of the module's answer,
    logits or numbers, or an embedding, which has no labels. ``activation``: of the output, by the
    source.
    """

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    preprocess: ImageInput | TextInput | None
    labels: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    output: Literal["logits", "embedding"] = "logits"
    card: CardAccuracy | None = None
    activation: OutputActivation = "softmax"


def image_spec(image: ImageInput) -> TensorSpec:
    """Return the spec of ``input``, FP32 ``[-1, channels, size, size]``."""
    return TensorSpec(
        name="input", datatype="FP32", shape=(BATCH, image.channels, image.size, image.size)
    )


def declared_inputs(
    source: ModelSource,
) -> tuple[tuple[TensorSpec, ...], ImageInput | None] | None:
    """Return the inputs declared by the recipe's ``image``, ``tensor`` or ``tensors``, or None.

    Raises :class:`SourceError` for ``text``, which needs a source with a tokenizer.
    """
    if source.text is not None:
        raise SourceError(
            f"model.source {source.source!r} has no tokenizer, so model.text is not supported; "
            f"use an hf: source, or declare model.tensor and send token ids"
        )
    if source.image is not None:
        return (image_spec(source.image),), source.image
    tensors = source.tensors if source.tensor is None else (source.tensor,)
    specs = tuple(
        TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=(BATCH, *tensor.shape))
        for tensor in tensors
    )
    return (specs, None) if specs else None
