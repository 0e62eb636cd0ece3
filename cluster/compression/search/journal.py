"""What a search has found so far, in a file that outlives every process that writes it.

    search/journal.jsonl   {"search": KEY}, then one line per finished stage of a trial
    search/NAME.safetensors  float32 weights, with what led to them in the file's metadata

A line is on disk before the search goes on by it. A process killed while it writes leaves a torn
last line, which is cut off; a journal with another key is of another search and goes away whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.artifact.manifest import Drop, Score
from cluster.config.search import Search
from cluster.config.steps import Step
from cluster.errors import CompressionError

Stage = Literal["proxy", "partial", "full"]
"""proxy: pruned, without recovery training. partial: with a part of it. full: with all of it, or
nothing was pruned."""

JOURNAL = "journal.jsonl"


class TrialResult(BaseModel):
    """What one stage of one trial measured; everything is on the validation samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    stage: Stage
    steps: tuple[Step, ...]
    weights: str = ""
    """File in the search's folder with the float32 weights before the quantize step."""

    score: Score | None = None
    drop: Drop | None = None
    step_scores: tuple[float, ...] = ()
    """The score after each of ``steps``."""

    latency_ms: float | None = None
    """Median of the compiled program at the search's batch."""

    size_bytes: int | None = None
    """What a replica loads: the program's files."""

    sensitivity: dict[str, float] = {}
    """Layer → drop when it alone is quantized, if the quantize step measured it."""

    seconds: float = 0.0
    failed: str = ""
    """Why there is no result; empty if there is one."""

    passing: bool = False
    """It failed for a reason that may be gone when the next job tries it, such as a full disk."""


def key_of(search: Search, settings: Mapping[str, object], tensors: Iterable[dict]) -> str:
    """A sha256 in hex of what decides a trial's result: the space and its batch, the other
    ``settings`` that take part, and the ``tensors`` that trials start from and compare with."""
    content = {"space": search.space.model_dump(mode="json"), "batch": search.batch, **settings}
    found = sha256(json.dumps(content, sort_keys=True).encode())
    for state in tensors:
        for name, tensor in sorted(state.items()):
            found.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class Journal:
    """The journal of one search, open for appending."""

    def __init__(self, folder: Path, key: str) -> None:
        """Take up the journal in ``folder``, or begin one if it is of another ``key``.

        CompressionError if it cannot be written.
        """
        self.folder = folder
        self._file = folder / JOURNAL
        lines = _whole_lines(self._file)
        self.results: tuple[TrialResult, ...] = ()
        try:
            if lines[:1] == [_header(key)]:
                self.results = self._kept(lines)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                self._append(_header(key))
                _flush(folder)
        except OSError as error:
            raise _unwritable(self._file, error) from error

    def append(self, result: TrialResult) -> None:
        """Write the result; it is on disk afterwards. CompressionError if it cannot be written."""
        try:
            self._append(result.model_dump_json())
        except OSError as error:
            raise _unwritable(self._file, error) from error

    def _append(self, line: str) -> None:
        with self._file.open("ab") as stream:
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _kept(self, lines: list[str]) -> tuple[TrialResult, ...]:
        """The results up to the first line that is none, after which the file is cut off."""
        results, size = [], len(lines[0].encode()) + 1
        for line in lines[1:]:
            try:
                result = TrialResult.model_validate_json(line)
            except ValidationError:
                break
            size += len(line.encode()) + 1
            # Weights that somebody deleted are made again, with the trial.
            if result.failed or (self.folder / result.weights).is_file():
                results.append(result)
        os.truncate(self._file, size)
        return tuple(results)


def _header(key: str) -> str:
    return json.dumps({"search": key})


def _whole_lines(file: Path) -> list[str]:
    if not file.is_file():
        return []
    whole, _, _ = file.read_bytes().rpartition(b"\n")
    return whole.decode(errors="replace").split("\n")


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(file: Path, error: OSError) -> CompressionError:
    return CompressionError(
        f"{file}: the search's journal cannot be written: {error.strerror}; nothing that it found "
        "is lost, so run the job again when that is repaired"
    )
