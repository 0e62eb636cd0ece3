"""Samples → batches of the model's inputs, decoded once if the whole set fits in memory.

Samples.raw(i) ─→ image_tensor | TextEncoder | unchanged arrays ─→ one array per input
               ─→ cached, if the whole set fits ─→ batch(indices): [batch, ...]

With ``skip_unreadable`` an image file that cannot be read is left out: the next readable sample
takes its place in a batch, with its label, so that batches keep their size. Scores exclude it
(:meth:`PreparedSamples.readable`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cluster.config.serving import Limits
from cluster.config.sources import ImageInput, TextInput
from cluster.data.samples import Raw, Samples
from cluster.errors import RequestError, SourceError
from cluster.preprocess import TextEncoder, decode_image, image_tensor
from cluster.tensors import TensorSpec

MEMO_BYTES = 512 * 2**20
"""Largest decoded set that is cached, so that a second epoch does not decode again."""

_THREADS = 8
"""Files that are decoded at a time, at most."""

Encode = Callable[[Raw], list[np.ndarray]]
"""One sample → one array per input, in the inputs' order, without batch dimension."""


class _UnreadableError(SourceError):
    """The sample's image file is damaged or unavailable."""


class PreparedSamples:
    """Samples as input arrays of a model.

    The kind of ``samples`` must match ``preprocess``: image files for an :class:`ImageInput`, texts
    for a :class:`TextInput` (which also needs ``tokenizer_json``), and arrays named like the inputs
    for None.

    Raises :class:`SourceError` at once when the first sample does not match the inputs, and from
    :meth:`batch` for a later one. Images over ``max_pixels`` (width × height) are unreadable. With
    ``skip_unreadable``, unreadable image files are errors only if there is no other sample.
    """

    def __init__(
        self,
        samples: Samples,
        inputs: Sequence[TensorSpec],
        preprocess: ImageInput | TextInput | None,
        tokenizer_json: bytes | None = None,
        *,
        max_pixels: int = Limits().image_pixels,
        memo_bytes: int = MEMO_BYTES,
        skip_unreadable: bool = False,
    ) -> None:
        self._samples = samples
        self._inputs = tuple(inputs)
        self._encode = _encoder(self._inputs, preprocess, tokenizer_json, max_pixels)
        decoded_bytes = len(samples) * sum(
            math.prod(spec.item_shape) * spec.dtype.itemsize for spec in self._inputs
        )
        # Arrays are in memory already. The cache's pages are allocated as they are filled.
        self._memo: list[np.ndarray] | None = None
        if preprocess is not None and decoded_bytes <= memo_bytes:
            self._memo = [
                np.empty((len(samples), *spec.item_shape), spec.dtype) for spec in self._inputs
            ]
        self._decoded = np.zeros(len(samples), np.bool_)
        self._are_files = isinstance(preprocess, ImageInput)
        self._skips = skip_unreadable
        self._unreadable: dict[int, str] = {}
        self._sources = np.arange(len(samples))
        """Position of the sample that a batch returns for each index."""

        if len(samples):
            self._item(0)

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the samples at ``indices``, and their labels, ``[len(indices), ...]``.

        Samples are one array ``[len(indices), ...]`` per input, in the inputs' order and dtypes.
        """
        positions = np.asarray(indices, np.int64)
        if self._memo is None:
            arrays = [np.empty((len(positions), *s.item_shape), s.dtype) for s in self._inputs]
            for row, index in enumerate(positions):
                for array, value in zip(arrays, self._item(int(index)), strict=True):
                    array[row] = value
        else:
            for index in map(int, positions[~self._decoded[positions]]):
                self._keep(index, self._item(index))
            arrays = [array[positions] for array in self._memo]
        return arrays, self._samples.labels[self._sources[positions]]

    def readable(self, indices: Sequence[int]) -> np.ndarray:
        """Return whether each sample of earlier batches is itself, bool ``[len(indices)]``."""
        return np.array([index not in self._unreadable for index in indices], np.bool_)

    def unreadable(self, indices: Sequence[int]) -> dict[str, str]:
        """Decode image files, in threads; return the names of unreadable ones, with reasons.

        Samples of other kinds are not read. SourceError for a file that does not match the inputs.
        """
        if not self._are_files:
            return {}
        pending = [index for index in indices if not self._decoded[index]]
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
            for _ in threads.map(self._try, pending):
                pass
        return {
            self._samples.name(index): self._unreadable[index]
            for index in indices
            if index in self._unreadable
        }

    def _try(self, index: int) -> None:
        try:
            arrays = self._read(index)
        except _UnreadableError as error:
            self._unreadable[index] = str(error)
        else:
            self._keep(index, arrays)

    def _keep(self, index: int, arrays: list[np.ndarray]) -> None:
        """Cache a decoded sample, if all of them fit."""
        if self._memo is not None:
            for memo, array in zip(self._memo, arrays, strict=True):
                memo[index] = array
            self._decoded[index] = True

    def _item(self, index: int) -> list[np.ndarray]:
        """Return one decoded sample; an unreadable one is replaced by the next, or an error."""
        positions = (*range(index, len(self)), *range(index)) if self._skips else (index,)
        for position in positions:
            if position in self._unreadable:
                continue
            try:
                arrays = self._read(position)
            except _UnreadableError as error:
                self._unreadable[position] = str(error)
            else:
                self._sources[index] = position
                return arrays
        others = f"; nor can any other of {len(self)} samples be read" if self._skips else ""
        raise SourceError(f"{self._samples.name(index)}: {self._unreadable[index]}{others}")

    def _read(self, index: int) -> list[np.ndarray]:
        """Return one decoded sample, checked against the inputs."""
        try:
            arrays = self._encode(self._raw(index))
        except _UnreadableError:
            raise
        except (RequestError, SourceError) as error:
            raise SourceError(f"{self._samples.name(index)}: {error}") from error
        for spec, array in zip(self._inputs, arrays, strict=True):
            if array.shape != spec.item_shape or not np.can_cast(
                array.dtype, spec.dtype, casting="same_kind"
            ):
                raise SourceError(
                    f"{self._samples.name(index)}: {spec.name} is {array.dtype} "
                    f"{list(array.shape)}, the model takes {spec.datatype} {list(spec.item_shape)}"
                )
        return arrays

    def _raw(self, index: int) -> Raw:
        try:
            return self._samples.raw(index)
        except SourceError as error:
            raise _UnreadableError(str(error)) from error


def _encoder(
    inputs: tuple[TensorSpec, ...],
    preprocess: ImageInput | TextInput | None,
    tokenizer_json: bytes | None,
    max_pixels: int,
) -> Encode:
    if isinstance(preprocess, ImageInput):

        def encode_image(raw: Raw) -> list[np.ndarray]:
            if not isinstance(raw, bytes):
                raise _mismatch(raw, "image files")
            try:
                return [image_tensor(decode_image(raw, max_pixels=max_pixels), preprocess)]
            except RequestError as error:
                raise _UnreadableError(str(error)) from error

        return encode_image
    if isinstance(preprocess, TextInput):
        if tokenizer_json is None:
            raise SourceError("a text model needs the bytes of its tokenizer.json")
        tokenize = TextEncoder(tokenizer_json, preprocess)

        def encode_text(raw: Raw) -> list[np.ndarray]:
            if not isinstance(raw, str):
                raise _mismatch(raw, "texts")
            tokens = tokenize(raw)
            return [tokens[spec.name] for spec in inputs]

        return encode_text

    def pick_arrays(raw: Raw) -> list[np.ndarray]:
        if not isinstance(raw, dict):
            raise _mismatch(raw, "arrays, or declare model.image")
        missing = [spec.name for spec in inputs if spec.name not in raw]
        if missing:
            raise SourceError(
                f"the arrays are {', '.join(raw)}, the model also takes {', '.join(missing)}; "
                f"name them like the model's inputs"
            )
        return [raw[spec.name] for spec in inputs]

    return pick_arrays


def _mismatch(raw: Raw, expected: str) -> SourceError:
    names = {bytes: "an image file", str: "a text", dict: "arrays"}
    return SourceError(f"the sample is {names[type(raw)]}; expected {expected}")
