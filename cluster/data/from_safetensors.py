"""``safetensors:PATH``: concatenated image files in one file, mapped and sliced on demand.

jpeg    uint8 [total]    the encoded files, in any supported format
offset  int64 [N + 1]    image i is jpeg[offset[i] : offset[i + 1]]
label   int64 [N], the classes; bool or uint8 0 and 1 [N, labels], any of which an image has;
        or float32 [N] or [N, numbers], for a regression
metadata "classes"       names of classes, labels or numbers, separated by commas; by default
                         their positions
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from cluster import fingerprint
from cluster.data.samples import LabelledSet, Raw, default_names, labelled_set
from cluster.errors import SourceError

_TENSORS = {
    "jpeg": (("U8", 1),),
    "offset": (("I64", 1),),
    "label": (("I64", 1), ("BOOL", 2), ("U8", 2), ("F32", 1), ("F32", 2)),
}
"""Required tensors: name → possible datatypes and numbers of dimensions."""


@dataclass(frozen=True)
class SlicedItems:
    """Slices of one mapped tensor; only the pages of a slice are read."""

    content: Any
    offsets: np.ndarray
    path: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, index: int) -> Raw:
        return self.content[int(self.offsets[index]) : int(self.offsets[index + 1])].tobytes()

    def name(self, index: int) -> str:
        return f"{self.path} image {index}"


def read(path: str) -> LabelledSet:
    """Map the file and read offsets and labels; the images stay on disk.

    Raises :class:`SourceError` when the file cannot be read, or its tensors differ.
    """
    try:
        file: Any = safe_open(path, framework="np")  # its methods have no annotations
        identity = fingerprint.of_files(Path(path).parent, [Path(path)])
    except (OSError, SafetensorError) as error:
        raise SourceError(f"safetensors:{path} cannot be read: {error}") from error
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for name, expected in _TENSORS.items():
        if name not in slices:
            raise SourceError(
                f"safetensors:{path} has the tensors {', '.join(slices) or '(none)'}; expected "
                f"{', '.join(_TENSORS)}"
            )
        actual = (slices[name].get_dtype(), len(slices[name].get_shape()))
        if actual not in expected:
            forms = ", or ".join(f"{datatype} with {count}" for datatype, count in expected)
            raise SourceError(
                f"safetensors:{path}: {name} is {actual[0]} with {actual[1]} dimensions, expected "
                f"{forms}"
            )
    offsets, labels = file.get_tensor("offset"), file.get_tensor("label")
    total = slices["jpeg"].get_shape()[0]
    if len(offsets) == 0 or offsets[0] < 0 or offsets[-1] > total or np.any(np.diff(offsets) < 0):
        raise SourceError(
            f"safetensors:{path}: offset must increase from 0 to at most {total}, the "
            f"length of jpeg"
        )
    classes = (file.metadata() or {}).get("classes")
    names = classes.split(",") if classes else default_names(labels)
    items = SlicedItems(slices["jpeg"], offsets, path)
    return labelled_set(items, labels, names, identity, f"safetensors:{path}")
