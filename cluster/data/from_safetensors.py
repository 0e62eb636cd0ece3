"""``safetensors:PATH``: image files joined end to end in one file, mapped and sliced on demand.

jpeg    uint8 [total]    the encoded files (any format that is served, whatever the name says)
offset  int64 [N + 1]    image i is jpeg[offset[i] : offset[i + 1]]
label   int64 [N]
metadata "classes"       class names, separated by commas; without it they are numbers
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from cluster import fingerprint
from cluster.data.samples import LabelledSet, Raw, labelled_set, numbered
from cluster.errors import SourceError

_TENSORS = {"jpeg": ("U8", 1), "offset": ("I64", 1), "label": ("I64", 1)}
"""Name → datatype and number of dimensions that the format asks for."""


@dataclass(frozen=True)
class JoinedItems:
    """Slices of one mapped tensor; only the pages of a slice are read."""

    joined: Any
    offsets: np.ndarray
    path: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, index: int) -> Raw:
        return self.joined[int(self.offsets[index]) : int(self.offsets[index + 1])].tobytes()

    def name(self, index: int) -> str:
        return f"{self.path} image {index}"


def read(path: str) -> LabelledSet:
    """Map the file; offsets and labels are read, the images stay on disk.

    Raises :class:`SourceError` when the file cannot be read, or its tensors are not as above.
    """
    try:
        file: Any = safe_open(path, framework="np")  # its methods carry no annotations
        identity = fingerprint.of_files(Path(path).parent, [Path(path)])
    except (OSError, SafetensorError) as error:
        raise SourceError(f"safetensors:{path} cannot be read: {error}") from error
    found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for name, expected in _TENSORS.items():
        if name not in found:
            raise SourceError(
                f"safetensors:{path} has the tensors {', '.join(found) or '(none)'}; expected "
                f"{', '.join(_TENSORS)}"
            )
        given = (found[name].get_dtype(), len(found[name].get_shape()))
        if given != expected:
            raise SourceError(
                f"safetensors:{path}: {name} is {given[0]} with {given[1]} dimensions, expected "
                f"{expected[0]} with {expected[1]}"
            )
    offsets, labels = file.get_tensor("offset"), file.get_tensor("label")
    total = found["jpeg"].get_shape()[0]
    if len(offsets) == 0 or offsets[0] < 0 or offsets[-1] > total or np.any(np.diff(offsets) < 0):
        raise SourceError(
            f"safetensors:{path}: offset must rise from 0 to at most {total}, the length of jpeg"
        )
    classes = (file.metadata() or {}).get("classes")
    names = classes.split(",") if classes else numbered(labels)
    items = JoinedItems(found["jpeg"], offsets, path)
    return labelled_set(items, labels, names, identity, f"safetensors:{path}")
