"""What every kind of model source hands over, and the inputs a recipe declares itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from cluster.config.sources import ImageInput, ModelSource, TextInput
from cluster.errors import SourceError
from cluster.tensors import BATCH, TensorSpec


@dataclass(frozen=True)
class Built:
    """A module as its source made it, not yet tried out.

    ``labels`` are the class names that come with the weights, empty when there are none.
    ``output`` says what the module answers: logits of classes, or an embedding, which has none.
    """

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    preprocess: ImageInput | TextInput | None
    labels: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    output: Literal["logits", "embedding"] = "logits"


def image_spec(image: ImageInput) -> TensorSpec:
    """The input ``input``, FP32 ``[-1, channels, size, size]``."""
    return TensorSpec(
        name="input", datatype="FP32", shape=(BATCH, image.channels, image.size, image.size)
    )


def declared_input(source: ModelSource) -> tuple[TensorSpec, ImageInput | None] | None:
    """The input that ``image`` or ``tensor`` of the recipe declares, or None without either.

    Raises :class:`SourceError` for ``text``, which only a source with a tokenizer can take.
    """
    if source.text is not None:
        raise SourceError(
            f"model.source {source.source!r} has no tokenizer, so it cannot take model.text; "
            f"use an hf: source, or declare model.tensor and send token ids"
        )
    if source.image is not None:
        return image_spec(source.image), source.image
    if source.tensor is not None:
        tensor = source.tensor
        spec = TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=(BATCH, *tensor.shape))
        return spec, None
    return None
