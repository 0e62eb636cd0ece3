"""A model source → LoadedModel: choose the loader by kind, then run the module once.

The probe is one forward of two items of zeros: it proves that the module takes the declared
inputs and answers logits or embeddings, before anything is trained, compressed or exported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster import fingerprint
from cluster.config.sources import ImageInput, ModelSource, TextInput
from cluster.errors import SourceError
from cluster.models import from_hf, from_python, from_torchvision
from cluster.models.built import Built
from cluster.tensors import BATCH, TensorSpec


@dataclass(frozen=True)
class SourceKind:
    """One kind of source. Both functions take first what follows ``kind:``."""

    build: Callable[[str, ModelSource, int | None], Built]
    """The module as built, with this many classes, or as many as it has for None."""
    identity: Callable[[str, ModelSource], str]
    """What decides the model besides the recipe's text and ``weights``."""


KINDS: dict[str, SourceKind] = {
    "torchvision": SourceKind(from_torchvision.build, from_torchvision.identity),
    "hf": SourceKind(from_hf.build, from_hf.identity),
    "python": SourceKind(from_python.build, from_python.identity),
}
"""A new kind is one entry here and one in ``ModelSource``."""

_PROBE_BATCH = 2


@dataclass(frozen=True)
class LoadedModel:
    """A classifier or an encoder, with everything its artifact needs besides weights.

    ``module`` is in eval mode on the CPU; its forward takes the ``inputs`` by position and
    returns one FP32 tensor, logits ``[batch, classes]`` or an embedding ``[batch, hidden]``.
    ``outputs`` describes that tensor. ``preprocess`` says how a file or text becomes the inputs;
    None when clients send tensors. ``labels`` holds one name per class, none for an encoder.
    ``files`` go into the artifact as they are.
    """

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: ImageInput | TextInput | None
    labels: tuple[str, ...]
    files: dict[str, bytes]


def load_model(source: ModelSource, labels: Sequence[str] = ()) -> LoadedModel:
    """Build the model of ``source`` with one class per label of the data.

    Without ``labels`` a classifier keeps its own number of classes; an encoder never looks at
    them. A head that is new is initialised from torch's global random state: seed it first.

    Raises :class:`SourceError` when the model cannot be found, built or filled with its weights,
    or does not map its inputs to logits of the wanted number of classes, or to an embedding.
    """
    labels = tuple(labels)
    if source.num_classes is not None and labels and source.num_classes != len(labels):
        raise SourceError(
            f"model.num_classes={source.num_classes}, but the data has {len(labels)} labels; "
            f"remove num_classes or make it {len(labels)}"
        )
    wanted = source.num_classes or len(labels) or None
    kind, _, rest = source.source.partition(":")
    built = KINDS[kind].build(rest, source, wanted)
    built.module.eval()
    width = _probe(built, source.source)
    if built.output == "embedding":
        return _loaded(built, width, ())
    if wanted is not None and width != wanted:
        raise SourceError(
            f"{source.source} answers {width} classes, but {wanted} are wanted "
            f"({'model.num_classes' if source.num_classes else 'the labels of the data'}); "
            f"let the factory take num_classes, or change the data"
        )
    return _loaded(built, width, _labels(built.labels, labels, width, source.source))


def source_fingerprint(source: ModelSource) -> str:
    """A sha256 in hex that changes when the model behind an unchanged recipe does.

    It covers a checkpoint file's content, a local directory's files, the file of a factory, and
    torchvision's version. Raises :class:`SourceError` when one of these cannot be read.
    """
    kind, _, rest = source.source.partition(":")
    parts = [KINDS[kind].identity(rest, source)]
    if source.weights is not None and Path(source.weights).is_file():
        checkpoint = Path(source.weights)
        try:
            parts.append(fingerprint.of_files(checkpoint.parent, [checkpoint]))
        except OSError as error:
            raise SourceError(f"model.weights: {checkpoint} cannot be read: {error}") from error
    return fingerprint.of_parts(parts)


def _loaded(built: Built, width: int, labels: tuple[str, ...]) -> LoadedModel:
    return LoadedModel(
        module=built.module,
        inputs=built.inputs,
        outputs=(TensorSpec(name=built.output, datatype="FP32", shape=(BATCH, width)),),
        preprocess=built.preprocess,
        labels=labels,
        files=built.files,
    )


def _probe(built: Built, name: str) -> int:
    """Number of classes in the logits, or of values in the embedding, that the module answers."""
    arrays = [torch.from_numpy(spec.zeros(_PROBE_BATCH)) for spec in built.inputs]
    taken = ", ".join(f"{s.name} {s.datatype} {list(s.shape)}" for s in built.inputs)
    try:
        with torch.inference_mode():
            answer = built.module(*arrays)
    except Exception as error:
        raise SourceError(
            f"{name} does not take {taken}: {type(error).__name__}: {error}; "
            f"change model.image, model.text or model.tensor to what it takes"
        ) from error
    expected = f"{name} must return one FP32 tensor of logits [batch, classes]"
    if not isinstance(answer, torch.Tensor):
        raise SourceError(f"{expected}, not {type(answer).__name__}; wrap it in a module that does")
    shape = list(answer.shape)
    if len(shape) != 2 or shape[0] != _PROBE_BATCH or shape[1] < 2:
        raise SourceError(
            f"{expected} with at least 2 classes; for a batch of {_PROBE_BATCH} it returned {shape}"
        )
    if answer.dtype != torch.float32:
        raise SourceError(f"{expected}, not {answer.dtype}; build it in float32")
    return shape[1]


def _labels(
    own: tuple[str, ...], data: tuple[str, ...], classes: int, name: str
) -> tuple[str, ...]:
    """One label per class: those of the weights, else those of the data, else the numbers."""
    if len(own) != classes:
        return data or tuple(str(index) for index in range(classes))
    # The same names in another order would score a good model near zero, without any error.
    if own != data and sorted(own) == sorted(data):
        index = next(i for i in range(classes) if own[i] != data[i])
        raise SourceError(
            f"class {index} is {own[index]!r} in {name} but {data[index]!r} in the data: the same "
            f"labels in another order; put the data's classes in the model's order"
        )
    return own
