"""``python:module:factory``: samples from the user's own function.

The factory has no parameters and returns ``(inputs, labels)``, ``(inputs, labels, names)``, or the
inputs alone if there are no labels:

    inputs  a list of image files as bytes, or a list of texts, or an array or tensor [N, ...]
            for an input called "input", or a dict of input name → array or tensor [N, ...]
    labels  integers [N], the classes; bool or 0 and 1 [N, labels], any of which a sample has;
            or floats [N] or [N, numbers], for a regression
    names   one string per class, label or number; by default their positions

Inputs alone serve for calibration and for comparisons of a model with itself before compression
(the metrics cosine and ranking). Training and accuracy need labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster import fingerprint
from cluster.config.sources import TensorInput
from cluster.data.samples import (
    ArrayItems,
    LabelledSet,
    ListItems,
    default_names,
    labelled_set,
    unlabelled_set,
)
from cluster.errors import SourceError
from cluster.factory import find_factory

_UNNAMED = TensorInput.model_fields["name"].default
"""Default name of a tensor input in a recipe."""


def read(path: str) -> LabelledSet:
    """Call the factory at ``path`` (``module:factory``).

    Raises :class:`SourceError` when it cannot be found, raises, or returns something else.
    """
    source = f"python:{path}"
    factory = find_factory(path)
    try:
        returned = factory()
    except Exception as error:
        raise SourceError(
            f"{source}: calling the factory raised {type(error).__name__}: {error}"
        ) from error
    if _is_inputs_only(returned):
        items = _items(returned, source)
        return unlabelled_set(items, fingerprint.of_parts(_content(items)), source)
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        raise SourceError(
            f"{source} returned {type(returned).__name__}, expected the tuple (inputs, labels) or "
            f"(inputs, labels, names), or without labels a list of texts or image files, an array "
            f"or a dict of arrays"
        )
    items = _items(returned[0], source)
    labels = _array(returned[1], "labels", source)
    names = tuple(map(str, returned[2])) if len(returned) == 3 else default_names(labels)
    identity = fingerprint.of_parts([*_content(items), labels, *names])
    return labelled_set(items, labels, names, identity, source)


def _is_inputs_only(returned: Any) -> bool:
    """Whether the factory returned samples without labels.

    Only lists of texts or files count: ``[inputs, labels]`` in place of a tuple would otherwise
    become nonsense without an error.
    """
    if isinstance(returned, list):
        return not returned or isinstance(returned[0], bytes | str)
    return isinstance(returned, dict) or hasattr(returned, "__array__")


def _items(inputs: Any, source: str) -> ListItems | ArrayItems:
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], bytes | str):
        kind = type(inputs[0])
        odd = next((i for i, value in enumerate(inputs) if not isinstance(value, kind)), None)
        if odd is not None:
            raise SourceError(
                f"{source}: input {odd} is {type(inputs[odd]).__name__}, the first is "
                f"{kind.__name__}; expected only image files (bytes) or only texts (str)"
            )
        return ListItems(inputs, source)
    named = inputs if isinstance(inputs, dict) else {_UNNAMED: inputs}
    arrays = {str(name): _array(value, str(name), source) for name, value in named.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise SourceError(
            f"{source}: the inputs have {lengths or 'no'} samples, expected equal numbers"
        )
    return ArrayItems(arrays, source)


def _array(value: Any, name: str, source: str) -> np.ndarray:
    try:
        array = np.asarray(value)  # CPU tensors convert themselves, without an import of torch
    except (TypeError, ValueError, RuntimeError) as error:
        raise SourceError(f"{source}: {name} cannot be converted to an array: {error}") from error
    if array.ndim == 0 or array.dtype == object:
        raise SourceError(
            f"{source}: {name} is {type(value).__name__}, expected numbers with the samples as "
            f"first dimension"
        )
    return array


def _content(items: ListItems | ArrayItems) -> list[bytes | str | np.ndarray]:
    """Return the content that enters the fingerprint."""
    if isinstance(items, ListItems):
        return list(items.values)
    return [part for name in sorted(items.arrays) for part in (name, items.arrays[name])]
