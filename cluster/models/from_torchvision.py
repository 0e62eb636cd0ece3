"""``torchvision:NAME``: a classification model of torchvision, fresh or pretrained."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.transforms._presets import ImageClassification

from cluster.config.sources import ImageInput, ModelSource
from cluster.errors import SourceError
from cluster.models import cards, checkpoints
from cluster.models.built_model import BuiltModel, declared_inputs, image_spec
from cluster.models.own_transform import OwnTransform, UnsupportedTransformError, image_of

_AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits")


def build(name: str, source: ModelSource, classes: int | None) -> BuiltModel:
    """Build ``name`` with pretrained weights, weights of a checkpoint file, or fresh ones.

    Pretrained weights include their preprocessing and labels. If ``classes`` differs from theirs,
    the head is replaced by a new one and the labels are dropped.

    Raises :class:`SourceError` for an unknown name or weights, or a failing download.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
        raise SourceError(f"torchvision has no classification model {name!r}; {hint}")
    declared = declared_inputs(source)
    pretrained = _pretrained_weights(name)
    card = None
    if source.weights in pretrained:
        weights = pretrained[source.weights]
        module, image, labels = _pretrained(name, weights, classes)
        card = cards.of_torchvision(weights.meta) if labels else None
    else:
        file = None if source.weights is None else Path(source.weights)
        if file is not None and not file.is_file():
            raise SourceError(
                f"model.weights {source.weights!r} is neither a file nor weights of {name}: "
                f"{', '.join(pretrained)}"
            )
        # Without `classes`, torchvision's default applies: the 1000 classes of ImageNet.
        sized = {} if classes is None else {"num_classes": classes}
        module, image, labels = torchvision.models.get_model(name, **sized), ImageInput(), ()
        _drop_auxiliary_heads(module)
        if file is not None:
            checkpoints.fill(module, file)
    inputs, preprocess = declared or ((image_spec(image),), image)
    return BuiltModel(module=module, inputs=inputs, preprocess=preprocess, labels=labels, card=card)


def identity(name: str, source: ModelSource) -> str:
    """Return torchvision's version, which decides architecture and weights."""
    return torchvision.__version__


def _pretrained_weights(name: str) -> dict[str, torchvision.models.WeightsEnum]:
    # Weights without categories fill only the backbone; their head is not a number.
    members = torchvision.models.get_model_weights(name).__members__
    return {key: weights for key, weights in members.items() if weights.meta.get("categories")}


def _pretrained(
    name: str, weights: torchvision.models.WeightsEnum, classes: int | None
) -> tuple[nn.Module, ImageInput, tuple[str, ...]]:
    try:
        module = torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:  # no network, or a file that fails its hash
        raise SourceError(
            f"the weights {weights} could not be downloaded from {weights.url}: {error}; "
            f"place the file in {torch.hub.get_dir()}/checkpoints"
        ) from error
    _drop_auxiliary_heads(module)
    labels = tuple(weights.meta["categories"])
    if classes is not None and replace_head(module, classes):
        labels = ()
    return module, preset_image(weights.transforms(), f"torchvision:{name} {weights.name}"), labels


def preset_image(preset: ImageClassification, name: str = "torchvision") -> ImageInput:
    """Return the preprocessing of pretrained weights, for PIL images.

    SourceError if the preset, called on noise, gives other values.
    """
    try:
        # Pillow ignores antialias: it always smooths.
        image = image_of(
            {
                "size": preset.crop_size[0],
                "resize": preset.resize_size[0],
                "mean": preset.mean,
                "std": preset.std,
                "interpolation": preset.interpolation.value,
            }
        )
        OwnTransform(lambda picture: preset(picture).numpy()).require_equal(image)
    except UnsupportedTransformError as error:
        raise error.for_source(name, " ".join(repr(preset).split())) from error
    return image


def replace_head(module: nn.Module, classes: int) -> bool:
    """Replace the last Linear by a new head of ``classes`` outputs, in place.

    In a model without Linear (SqueezeNet), the last 1×1 convolution is the head. Returns False,
    without a change, when the head already has ``classes`` outputs.
    """
    linears = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    convolutions = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)
    ]
    name = (linears or convolutions)[-1]
    old = module.get_submodule(name)
    new: nn.Module
    if isinstance(old, nn.Linear):
        if old.out_features == classes:
            return False
        new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    elif isinstance(old, nn.Conv2d):
        if old.out_channels == classes:
            return False
        new = nn.Conv2d(old.in_channels, classes, kernel_size=1, bias=old.bias is not None)
    module.set_submodule(name, new)
    return True


def _drop_auxiliary_heads(module: nn.Module) -> None:
    # With these heads, GoogLeNet and Inception return a tuple in training mode; a served model
    # never runs them.
    if getattr(module, "aux_logits", False):
        setattr(module, "aux_logits", False)  # noqa: B010 - only these two have it
        for name in _AUXILIARY_HEADS:
            if hasattr(module, name):
                setattr(module, name, None)
