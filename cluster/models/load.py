"""A model source → LoadedModel: loader chosen by kind, then checks on copies of the module.

    probe        one item of zeros: the declared inputs are accepted; logits or embeddings come back
    batch_check  batches of noise: each item is computed by itself, and the same every time
    applied_activation  a user's forward does not end in softmax or sigmoid, which serving applies

They run before training, compression and export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster import fingerprint, independence
from cluster.activation import VALUES, OutputActivation
from cluster.config.sources import ImageInput, ModelSource, TextInput
from cluster.errors import ForwardError, SourceError
from cluster.models import (
    applied_activation,
    batch_check,
    forward,
    from_hf,
    from_python,
    from_torchvision,
)
from cluster.models.answer import width_of
from cluster.models.built_model import BuiltModel
from cluster.models.cards import CardAccuracy
from cluster.models.forward import Eager
from cluster.tensors import BATCH, TensorSpec


@dataclass(frozen=True)
class SourceKind:
    """One kind of source. Both functions take first the part after ``kind:``."""

    build: Callable[[str, ModelSource, int | None], BuiltModel]
    """Builder of the module with a number of classes; None: the module's own number."""
    identity: Callable[[str, ModelSource], str]
    """Identity of the model besides the recipe's text and ``weights``."""


KINDS: dict[str, SourceKind] = {
    "torchvision": SourceKind(from_torchvision.build, from_torchvision.identity),
    "hf": SourceKind(from_hf.build, from_hf.identity),
    "python": SourceKind(from_python.build, from_python.identity),
}
"""Kinds of sources; a new kind is one entry here and one in ``ModelSource``."""


@dataclass(frozen=True)
class LoadedModel:
    """A classifier, regressor or encoder, with all that its artifact needs besides weights.

    ``module`` is in eval mode on the CPU. Its forward takes the ``inputs`` by position and returns
    one FP32 tensor, logits or numbers ``[batch, labels]`` or an embedding ``[batch, hidden]``,
    described by ``outputs``; ``activation`` is not applied. ``preprocess``: conversion of a file or
    text to the inputs; None when clients send tensors. ``labels``: one name per output, empty for
    an encoder and for numbers without names. ``files`` are copied into the artifact.
    """

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: ImageInput | TextInput | None
    labels: tuple[str, ...]
    files: dict[str, bytes]
    card: CardAccuracy | None = None
    """Accuracy that the weights' own card states, for the classes of ``labels``."""
    activation: OutputActivation = "softmax"


def load_model(
    source: ModelSource, labels: Sequence[str] = (), *, checked: bool = False
) -> LoadedModel:
    """Build the model of ``source`` with one output per label of the data.

    Without ``labels`` a classifier keeps its number of outputs; an encoder ignores them. A new head
    is initialised from torch's global random state: seed it first. ``checked``: the model passed
    the check of its batches before, and only its answer's shape is checked. The checks run copies
    of the module, and restore every random state.

    Raises :class:`SourceError` when the model cannot be found, built or filled with its weights,
    does not map its inputs to an embedding or to the expected number of outputs, or answers an item
    by anything but the item (:mod:`cluster.models.batch_check`).
    """
    labels = tuple(labels)
    if source.num_classes is not None and labels and source.num_classes != len(labels):
        raise SourceError(
            f"model.num_classes={source.num_classes}, but the data has {len(labels)} labels; "
            f"remove num_classes or make it {len(labels)}"
        )
    classes = source.num_classes or len(labels) or None
    kind, _, path = source.source.partition(":")
    model = KINDS[kind].build(path, source, classes)
    model.module.eval()
    _check_state(model.module, source.source)
    with forward.random_states():
        width = _probe(model, source.source)
    if not checked:
        largest = source.max_batch_size or independence.LARGEST_BATCH
        batch_check.check(model.module, model.inputs, source.source, largest=largest)
    activation = _activation(source, model)
    if model.output == "embedding":
        return _result(model, width, (), activation)
    if classes is not None and width != classes:
        raise SourceError(
            f"{source.source} returns {width} outputs, expected {classes} "
            f"({'model.num_classes' if source.num_classes else 'the labels of the data'}); "
            f"give the factory a parameter num_classes, or change the data"
        )
    if width == 1 and activation == "softmax":
        raise SourceError(
            f"{source.source} returns one number per item, whose softmax is always 1; set "
            f"model.activation: sigmoid for the probability of one label, or none for a regression"
        )
    if kind == "python" and not checked:
        applied_activation.check(model.module, model.inputs, activation, source.source)
    names = _labels(model.labels, labels, width, source.source, activation)
    return _result(model, width, names, activation)


def source_fingerprint(source: ModelSource) -> str:
    """Return a sha256 in hex that changes when the model of an unchanged recipe does.

    It covers a checkpoint file's content, a local directory's files, the file of a factory, and
    torchvision's version. Raises :class:`SourceError` when one of these cannot be read.
    """
    kind, _, path = source.source.partition(":")
    parts = [KINDS[kind].identity(path, source)]
    if source.weights is not None and Path(source.weights).is_file():
        checkpoint = Path(source.weights)
        try:
            parts.append(fingerprint.of_files(checkpoint.parent, [checkpoint]))
        except OSError as error:
            raise SourceError(f"model.weights: {checkpoint} cannot be read: {error}") from error
    return fingerprint.of_parts(parts)


def _activation(source: ModelSource, model: BuiltModel) -> OutputActivation:
    if model.output != "embedding":
        return source.activation or model.activation
    if source.activation not in (None, "none"):
        raise SourceError(
            f"model.activation={source.activation}: {source.source} returns embeddings, which have "
            f"no labels; remove it"
        )
    return "none"


def _result(
    model: BuiltModel, width: int, labels: tuple[str, ...], activation: OutputActivation
) -> LoadedModel:
    numbers = activation == "none" and model.output == "logits"
    name = VALUES if numbers else model.output
    return LoadedModel(
        module=model.module,
        inputs=model.inputs,
        outputs=(TensorSpec(name=name, datatype="FP32", shape=(BATCH, width)),),
        preprocess=model.preprocess,
        labels=labels,
        files=model.files,
        card=model.card if labels == model.labels else None,
        activation=activation,
    )


def _check_state(module: torch.nn.Module, name: str) -> None:
    for key, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise SourceError(
                f"{name}: its state has {key}, a {type(value).__name__}, and an artifact stores "
                "tensors alone; keep it out of get_extra_state, or make it a buffer"
            )


def _probe(model: BuiltModel, name: str) -> int:
    """Run the probe; return the width of the answer: number of classes, or embedding size."""
    run, zeros = Eager(model.module), [spec.zeros(2) for spec in model.inputs]
    # A model that runs no single item is refused by the check of its batches, with the reason.
    batch = next((n for n in (1, 2) if independence.runs(run, [array[:n] for array in zeros])), 1)
    try:
        answer = run.answer([array[:batch] for array in zeros])
    except ForwardError as error:
        described = ", ".join(f"{s.name} {s.datatype} {list(s.shape)}" for s in model.inputs)
        raise SourceError(
            f"{name} does not accept {described}: {error}; "
            f"correct its forward, or change model.image, model.text, model.tensor or "
            "model.tensors to its input"
        ) from error
    return width_of(answer, batch, name)


def _labels(
    model_labels: tuple[str, ...],
    data: tuple[str, ...],
    classes: int,
    name: str,
    activation: OutputActivation,
) -> tuple[str, ...]:
    """Return one label per output: of the weights, else of the data, else of classes the position.

    Numbers that neither names have no labels.
    """
    if activation == "none" and len(set(model_labels)) < len(model_labels):
        model_labels = ()
    if len(model_labels) != classes:
        unnamed = () if activation == "none" else tuple(map(str, range(classes)))
        return data or unnamed
    # Equal names in another order would silently score a good model near zero.
    if model_labels != data and sorted(model_labels) == sorted(data):
        index = next(i for i in range(classes) if model_labels[i] != data[i])
        raise SourceError(
            f"class {index} is {model_labels[index]!r} in {name} but {data[index]!r} in the data: "
            f"equal labels in another order; reorder the data's classes like the model's"
        )
    return model_labels
