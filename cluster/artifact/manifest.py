"""The manifest: everything that serving, planning and inspection know of an artifact.

Nothing that only a weight file could tell is missing here, so a planner reads this alone.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import PurePosixPath
from statistics import geometric_mean
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from cluster.artifact.entries import FileEntry, Latency, Line, ProgramEntry, Record
from cluster.artifact.layout import Layout, Profile
from cluster.artifact.printable import printable
from cluster.config.base import ArtifactName
from cluster.config.sources import ImageInput, TextInput
from cluster.errors import ArtifactError
from cluster.tensors import TensorSpec

FILE_NAME = "manifest.json"

SCHEMA_VERSION = 2

_MOST_LEVELS = 64
"""Of lists and objects in each other: a recipe, which is the deepest part, has about ten."""

_FILE_PATH = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$"
"""Paths inside the artifact: relative, forward slashes, never upward."""


class Score(Record):
    """A metric's mean over samples, with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    samples: int


class Drop(Record):
    """How much lower the artifact scores than the baseline, on the same samples."""

    mean: float
    upper: float = Field(description="One-sided upper confidence bound.")
    confidence: float


class Measurement(Record):
    """What one model, baseline or program, measured in an evaluation process."""

    accuracy: float = Field(
        description="Mean score by the recipe's first metric, 0..1: the share of held-out samples "
        "answered right, unless it names another."
    )
    accuracy_low: float = Field(description="Lower end of its 95 % confidence interval.")
    accuracy_high: float = Field(description="Upper end of its 95 % confidence interval.")
    samples: int
    drop: Drop | None = Field(default=None, description="Against the baseline; None for itself.")
    others: dict[str, Score] = Field(default={}, description="The recipe's other metrics.")
    latency: tuple[Latency, ...] = Field(min_length=1)
    size_bytes: int = Field(
        ge=0, lt=2**63, description="What a replica loads: program, or float weights."
    )

    def at_batch(self, batch: int) -> Latency:
        """The latency at that batch size, one of the recipe's ``evaluation.batches``."""
        return next(entry for entry in self.latency if entry.batch == batch)

    @property
    def typical_ms(self) -> float:
        """Geometric mean of the medians over batch sizes: the smallest is the fastest program."""
        return geometric_mean(entry.p50_ms for entry in self.latency)


class Manifest(Record):
    """``manifest.json``."""

    schema_version: Literal[2] = 2
    name: ArtifactName
    recipe: dict[str, Any] = Field(description="The recipe as it ran, defaults filled in.")
    recipe_key: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="Identity of the build: sha256 of recipe, data, code versions.",
    )
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    image: ImageInput | None = Field(description="Image preprocessing, if the model takes images.")
    text: TextInput | None = Field(description="Tokenizing, if the model takes text.")
    labels: tuple[str, ...] = Field(description="Class names, in the order of the logits.")
    files: dict[Annotated[str, Field(pattern=_FILE_PATH)], FileEntry] = Field(
        description="Every other file, by path."
    )
    programs: tuple[ProgramEntry, ...]
    quantized_operators: int = Field(
        description="Operators that compute, or are stored, in fewer bits: of the fastest program "
        "of the recipe's first target."
    )
    baseline: Measurement | None = Field(
        default=None, description="The model before compression, in eager float32."
    )
    other_baselines: dict[Line, Measurement] = Field(
        default={}, description="The same on the targets after the first, by target."
    )
    measured: dict[Line, Measurement] = Field(
        default={}, description="Each program as reloaded from the artifact, by target/kind."
    )
    fastest: dict[Line, Line] = Field(
        default={}, description="Target → kind of the program that measured fastest there."
    )
    metric: Line = Field(default="accuracy", description="What `accuracy` is the mean of.")
    index_limits: dict[str, int] = Field(
        default={},
        description="Input that is looked up in a table, such as token ids → rows of that table.",
    )
    profile: Profile | None = Field(
        default=None, description="Where the model can be cut, and what its parts cost."
    )
    layouts: tuple[Layout, ...] = Field(
        default=(), description="The model once more, cut into shards."
    )

    @field_validator("files")
    @classmethod
    def _beside_each_other(cls, value: dict[str, FileEntry]) -> dict[str, FileEntry]:
        taken = {*value, FILE_NAME}
        for path in value:
            if path == FILE_NAME or taken & set(map(str, PurePosixPath(path).parents)):
                raise ValueError(f"{path} and another file cannot both be there")
        return value

    @model_validator(mode="after")
    def _measured_alike(self) -> Manifest:
        """Tables compare measurements column by column, and speed-ups are at batch 1."""
        found = [*self.measured.values(), *self.other_baselines.values()]
        found += [self.baseline] if self.baseline is not None else []
        batches = {tuple(entry.batch for entry in each.latency) for each in found}
        if len(batches) > 1 or any(each[0] != 1 for each in batches):
            raise ValueError(f"measured at batches {batches}, expected the same, from 1 on")
        return self

    def inputs_of(self, entry: ProgramEntry) -> tuple[TensorSpec, ...]:
        """What a program takes: the model's inputs, or those of the part that it computes."""
        return self.inputs if entry.inputs is None else entry.inputs

    def winner(self, target: str) -> Measurement:
        """What the fastest program of the target measured; ArtifactError if it has none."""
        found = self.measured.get(f"{target}/{self.fastest.get(target)}")
        if found is None:
            raise ArtifactError(
                f"artifact {self.name} has no measured program for {target}; it has "
                f"{', '.join(self.measured) or 'none'}. Build it again with `headrace compress`"
            )
        return found

    def layout(self, key: str) -> Layout:
        """The layout of that key; ArtifactError if there is none."""
        found = next((each for each in self.layouts if each.key == key), None)
        if found is None:
            raise ArtifactError(
                f"artifact {self.name} has no layout {key}; it has "
                f"{', '.join(each.key for each in self.layouts) or 'none'}"
            )
        return found

    def to_json(self) -> bytes:
        """Canonical JSON: the artifact's id is the sha256 of these bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"

    @staticmethod
    def from_json(raw: bytes, where: str) -> Manifest:
        """Read a manifest; :class:`ArtifactError` if it is foreign or of another schema version."""
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{where}: not JSON: {error}") from None
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{where}: manifest schema_version is {version!r:.100}, this Headrace reads "
                f"{SCHEMA_VERSION}; build the artifact again with `headrace compress`"
            )
        if _levels_exceed(data, _MOST_LEVELS):
            raise ArtifactError(
                f"{where}: not a Headrace manifest: its lists and objects lie more than "
                f"{_MOST_LEVELS} deep in each other"
            )
        try:
            return Manifest.model_validate(data)
        except ValidationError as error:
            raise ArtifactError(f"{where}: not a Headrace manifest: {_problems(error)}") from None


def _levels_exceed(data: Any, most: int) -> bool:
    if isinstance(data, dict):
        data = data.values()
    elif not isinstance(data, list):
        return False
    return most == 0 or any(_levels_exceed(each, most - 1) for each in data)


def _problems(error: ValidationError) -> str:
    """On one line, whatever stands in the manifest."""
    return "; ".join(
        f"{printable('.'.join(map(str, problem['loc'])))}: {printable(problem['msg'])} (given: "
        f"{problem['input']!r:.100})"
        for problem in error.errors(include_url=False)
    )


def content_id(manifest: bytes) -> str:
    """The id of the artifact with this ``manifest.json``: its sha256, 64 hex digits.

    The manifest names the hash of every other file, so the id covers all of them.
    """
    return sha256(manifest).hexdigest()
