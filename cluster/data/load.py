"""A data source → LabelledData: read, split, and limited to a number of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cluster import fingerprint
from cluster.config.sources import DataSource
from cluster.data import from_digits, from_imagefolder, from_python, from_safetensors
from cluster.data.samples import LabelledSet, Samples
from cluster.data.split import stratified_sample, without_share
from cluster.errors import SourceError

READERS: dict[str, Callable[[str], LabelledSet]] = {
    "digits": from_digits.read,
    "imagefolder": from_imagefolder.read,
    "safetensors": from_safetensors.read,
    "python": from_python.read,
}
"""Kind of source → its reader, which is called with the part after ``kind:``."""


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Training, validation and test samples in random order, and the names of the labels.

    Without labels in the source, ``labels`` is empty and every sample is labelled 0.
    ``fingerprint``: sha256 in hex of the sources' content. The choice of samples follows from the
    recipe (``seed`` and ``data``).
    """

    train: Samples
    validation: Samples
    test: Samples
    labels: tuple[str, ...]
    fingerprint: str


def load_data(source: DataSource, seed: int) -> LabelledData:
    """Read ``source`` and split it; equal seeds and contents give equal splits.

    Without ``test_source`` the samples are split, each class by ``test_share``. ``limit`` keeps
    that many samples of each split, each class by its share. Validation samples are taken from the
    remaining samples of the split named by ``validation_from``.

    Raises :class:`SourceError` when a source cannot be read, is too small to split, or the
    classes or samples of the two sources do not match.
    """
    rng = np.random.default_rng(seed)
    labelled = _read(source.source)
    if source.test_source is None:
        train, test = _split(labelled, source, rng)
        identity = labelled.fingerprint
    else:
        held_out = _read(source.test_source)
        _check_pair(labelled, held_out, source)
        train, test = labelled.samples, held_out.samples
        identity = fingerprint.of_parts([labelled.fingerprint, held_out.fingerprint])
    train, test = _limit(train, source.limit, rng), _limit(test, source.limit, rng)
    if source.validation_from == "training":
        train, validation = without_share(train, source.validation_share, seed)
    else:
        test, validation = without_share(test, source.validation_share, seed)
    return LabelledData(
        train=train,
        validation=validation,
        test=test,
        labels=labelled.labels,
        fingerprint=identity,
    )


def require_labels(data: LabelledData, consumer: str) -> None:
    """Raise :class:`SourceError` if the data is unlabelled.

    ``consumer``: part of the recipe that needs labels, such as ``evaluation.metrics (accuracy)``.
    """
    if not data.labels:
        raise SourceError(
            f"{consumer} needs labels, but the data has none: let its source return (inputs, "
            f"labels), or use the metrics cosine and ranking and no step that trains on labels"
        )


def require_every_class(data: LabelledData, consumer: str) -> None:
    """Check that every class or label has training samples, for a part that learns from them.

    Raises :class:`SourceError`, naming the classes, when one has none or the data is unlabelled.
    """
    require_labels(data, consumer)
    labels = data.train.labels
    if data.train.activation == "none":
        return
    independent = data.train.activation == "sigmoid"
    counts = labels.sum(axis=0) if independent else np.bincount(labels, minlength=len(data.labels))
    absent = tuple(name for name, count in zip(data.labels, counts, strict=True) if not count)
    if absent:
        raise SourceError(
            f"{consumer} needs every class, but {len(absent)} of {len(data.labels)} are missing in "
            f"the {len(data.train)} training samples: {_describe(absent)}; add samples of them, "
            f"raise data.limit, or remove the class from the data"
        )


def _read(source: str) -> LabelledSet:
    kind, _, path = source.partition(":")
    return READERS[kind](path)


def _split(
    labelled: LabelledSet, source: DataSource, rng: np.random.Generator
) -> tuple[Samples, Samples]:
    samples = labelled.samples
    if len(samples) < 2:
        raise SourceError(
            f"{source.source} has one sample, which cannot be split; add samples or a test_source"
        )
    count = min(max(round(len(samples) * source.test_share), 1), len(samples) - 1)
    test = stratified_sample(samples.labels, count, rng)
    train = np.setdiff1d(np.arange(len(samples)), test)
    return samples.subset(train), samples.subset(test)


def _limit(samples: Samples, limit: int | None, rng: np.random.Generator) -> Samples:
    # Without a limit all samples are shuffled, too: a calibration reads the first ones, which must
    # not all be of one class.
    count = min(limit or len(samples), len(samples))
    return samples.subset(stratified_sample(samples.labels, count, rng))


def _check_pair(training: LabelledSet, held_out: LabelledSet, source: DataSource) -> None:
    kinds = [part.samples.activation for part in (training, held_out)]
    if training.labels and held_out.labels and kinds[0] != kinds[1]:
        raise SourceError(
            f"the labels of {source.source} are {training.samples.labels.dtype}, those of "
            f"{source.test_source} {held_out.samples.labels.dtype}; expected the same kind"
        )
    if training.labels != held_out.labels:
        raise SourceError(
            f"the classes of {source.source} are {_describe(training.labels)}, those of "
            f"{source.test_source} are {_describe(held_out.labels)}; expected equal classes "
            "in equal order"
        )
    if training.fingerprint == held_out.fingerprint:
        raise SourceError(
            f"{source.test_source} has the same samples as {source.source}, so none would be "
            f"held out; remove test_source to split them"
        )


def _describe(labels: tuple[str, ...]) -> str:
    more = f", ... ({len(labels)})" if len(labels) > 10 else ""
    return f"{', '.join(labels[:10]) or '(none)'}{more}"
