"""A data source → LabelledData: read it, split it, keep at most the wanted number of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cluster import fingerprint
from cluster.config.sources import DataSource
from cluster.data import from_digits, from_imagefolder, from_python, from_safetensors
from cluster.data.samples import LabelledSet, Samples
from cluster.data.split import stratified, without_share
from cluster.errors import SourceError

READERS: dict[str, Callable[[str], LabelledSet]] = {
    "digits": from_digits.read,
    "imagefolder": from_imagefolder.read,
    "safetensors": from_safetensors.read,
    "python": from_python.read,
}
"""Kind of source → what reads it, given the rest after ``kind:``."""


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Samples to train on, to choose by and to judge by, in random order; each class's name.

    ``labels`` is empty, and every sample labelled 0, where the source has no labels.
    ``fingerprint`` is a sha256 in hex of the sources' content; which samples of them were taken
    follows from the recipe (``seed`` and ``data``).
    """

    train: Samples
    validation: Samples
    test: Samples
    labels: tuple[str, ...]
    fingerprint: str


def load_data(source: DataSource, seed: int) -> LabelledData:
    """Read ``source`` and choose its splits; the same seed and content give the same splits.

    Without ``test_source`` the samples are split, each class by ``test_share``. ``limit`` keeps
    that many samples of each split, each class by its share. The validation samples are taken
    out of what is left of the split that ``validation_from`` names.

    Raises :class:`SourceError` when a source cannot be read, is too small to split, or the
    classes or samples of the two sources do not fit together.
    """
    rng = np.random.default_rng(seed)
    whole = _read(source.source)
    if source.test_source is None:
        train, test = _split(whole, source, rng)
        identity = whole.fingerprint
    else:
        held_out = _read(source.test_source)
        _check_pair(whole, held_out, source)
        train, test = whole.samples, held_out.samples
        identity = fingerprint.of_parts([whole.fingerprint, held_out.fingerprint])
    train, test = _limited(train, source.limit, rng), _limited(test, source.limit, rng)
    if source.validation_from == "training":
        train, validation = without_share(train, source.validation_share, seed)
    else:
        test, validation = without_share(test, source.validation_share, seed)
    return LabelledData(
        train=train,
        validation=validation,
        test=test,
        labels=whole.labels,
        fingerprint=identity,
    )


def require_labels(data: LabelledData, why: str) -> None:
    """Check that every class is there to learn and to be tested on.

    ``why``: what needs the labels, as it stands in the recipe, such as ``steps[0] (train)``.
    Raises :class:`SourceError`, naming the classes, when the data is unlabelled, or when one has
    no sample among the training or the held-out samples.
    """
    if not data.labels:
        raise SourceError(
            f"{why} needs labels, and the data has none: let its source return (inputs, labels), "
            f"or use the metrics cosine and ranking and no step that trains on labels"
        )
    for title, samples in (("training", data.train), ("held-out", data.test)):
        there = np.bincount(samples.labels, minlength=len(data.labels))
        absent = tuple(name for name, count in zip(data.labels, there, strict=True) if not count)
        if absent:
            raise SourceError(
                f"{why} needs every class, and the {len(samples)} {title} samples hold none of "
                f"{len(absent)} of the {len(data.labels)}: {_shown(absent)}; add samples of them, "
                f"raise data.limit, or take the class out of the data"
            )


def _read(source: str) -> LabelledSet:
    kind, _, rest = source.partition(":")
    return READERS[kind](rest)


def _split(
    whole: LabelledSet, source: DataSource, rng: np.random.Generator
) -> tuple[Samples, Samples]:
    samples = whole.samples
    if len(samples) < 2:
        raise SourceError(
            f"{source.source} has one sample, which cannot be split; add samples or a test_source"
        )
    count = min(max(round(len(samples) * source.test_share), 1), len(samples) - 1)
    test = stratified(samples.labels, count, rng)
    train = np.setdiff1d(np.arange(len(samples)), test)
    return samples.subset(train), samples.subset(test)


def _limited(samples: Samples, limit: int | None, rng: np.random.Generator) -> Samples:
    # Without a limit all are taken, and shuffled: a calibration reads the first samples, which
    # must not be all of one class.
    count = min(limit or len(samples), len(samples))
    return samples.subset(stratified(samples.labels, count, rng))


def _check_pair(whole: LabelledSet, held_out: LabelledSet, source: DataSource) -> None:
    if whole.labels != held_out.labels:
        raise SourceError(
            f"the classes of {source.source} are {_shown(whole.labels)}, those of "
            f"{source.test_source} are {_shown(held_out.labels)}; both need the same, in one order"
        )
    if whole.fingerprint == held_out.fingerprint:
        raise SourceError(
            f"{source.test_source} holds the very samples of {source.source}: nothing would be "
            f"held out; remove test_source to split them"
        )


def _shown(labels: tuple[str, ...]) -> str:
    more = f", ... ({len(labels)})" if len(labels) > 10 else ""
    return f"{', '.join(labels[:10]) or '(none)'}{more}"
