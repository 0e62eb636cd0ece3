"""Journal of a search: its results so far, in a file that survives a kill.

    search/journal.jsonl   {"search": KEY}, then one line per finished stage of a trial
    search/NAME.safetensors  float32 weights; the file's metadata has the records of their steps

A line is on disk before the search uses its result. A process that is killed while it writes leaves
a torn last line, which is truncated. A journal that started from other weights is deleted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.artifact.manifest import Drop, Score
from cluster.config.steps import Step
from cluster.errors import CompressionError

Stage = Literal["proxy", "partial", "full"]
"""proxy: pruned, without recovery training. partial: with a part of the recovery. full: with all
of it, or not pruned."""

JOURNAL = "journal.jsonl"


class TrialResult(BaseModel):
    """Measurements of one stage of one trial, on the validation samples."""

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
    """Bytes of the program's files, which a replica loads."""

    sensitivity: dict[str, float] = {}
    """Layer → drop when it alone is quantized, if the quantize step measured it."""

    seconds: float = 0.0
    failed: str = ""
    """Reason of the failure; empty after a success."""

    passing: bool = False
    """Whether the reason may be transient, such as a full disk: the next job retries the trial."""


def key_of(*states: Mapping[str, torch.Tensor]) -> str:
    """Return a sha256 in hex of the tensors that trials start from and compare with.

    The recipe and the data need no check: the folder belongs to one job.
    """
    digest = sha256()
    for state in states:
        for name, tensor in sorted(state.items()):
            digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            content = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(content.tobytes())
    return digest.hexdigest()


class Journal:
    """Journal of one search, open for appending."""

    def __init__(self, folder: Path, key: str) -> None:
        """Open the journal in ``folder``, or replace it if it has another ``key``.

        CompressionError if it cannot be written.
        """
        self.folder = folder
        self._file = folder / JOURNAL
        lines = _whole_lines(self._file)
        self.results: tuple[TrialResult, ...] = ()
        try:
            if lines[:1] == [_header(key)]:
                self.results = self._read(lines)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                self._append(_header(key))
                _flush(folder)
        except OSError as error:
            raise _unwritable(self._file, error) from error

    def append(self, result: TrialResult) -> None:
        """Write the result to disk. CompressionError if it cannot be written."""
        try:
            self._append(result.model_dump_json())
        except OSError as error:
            raise _unwritable(self._file, error) from error

    def _append(self, line: str) -> None:
        with self._file.open("ab") as stream:
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self, lines: list[str]) -> tuple[TrialResult, ...]:
        """Return the results before the first torn line, and truncate the file there."""
        results, size = [], len(lines[0].encode()) + 1
        for line in lines[1:]:
            try:
                result = TrialResult.model_validate_json(line)
            except ValidationError:
                break
            size += len(line.encode()) + 1
            # A trial whose weights were deleted runs again.
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
        f"{file}: the search's journal cannot be written: {error.strerror}; earlier results are "
        "safe: repair the cause and run the job again"
    )
