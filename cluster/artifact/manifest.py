"""The manifest: all that serving, planning and inspection know of an artifact.

It holds everything that otherwise only a weight file could tell, so a planner reads nothing else.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import PurePosixPath
from statistics import geometric_mean
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from cluster.activation import OutputActivation
from cluster.artifact.entries import FileEntry, Latency, Line, ProgramEntry, Record
from cluster.artifact.layout import Layout, Profile
from cluster.artifact.printable import printable
from cluster.config.base import ArtifactName
from cluster.config.sources import ImageInput, TextInput
from cluster.errors import ArtifactError
from cluster.tensors import IndexRange, TensorSpec

FILE_NAME = "manifest.json"

SCHEMA_VERSION = 2

_MAX_LEVELS = 64
"""Maximum nesting of lists and objects; a recipe, the deepest part, has about ten levels."""

_FILE_PATH = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$"
"""Pattern of paths inside the artifact: relative, forward slashes, never upward."""


class Score(Record):
    """A metric's mean over samples, with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    samples: int


class Drop(Record):
    """Drop of the artifact's score below the baseline's, on the same samples."""

    mean: float
    upper: float = Field(description="One-sided upper confidence bound.")
    confidence: float


class Agreement(Record):
    """Agreement of the artifact's and the baseline's answers, on the same samples, at most 1."""

    measure: Literal["predictions", "labels", "numbers", "cosine", "ranking"] = Field(
        description="Share of equal predictions, mean F1 of the labels, share of the numbers' "
        "variance that is explained, mean cosine, or mean rank correlation."
    )
    mean: float
    lower: float = Field(description="One-sided lower confidence bound.")
    confidence: float


class Measurement(Record):
    """Measurements of one model, baseline or program, in an evaluation process."""

    accuracy: float = Field(
        description="Mean score by the recipe's first metric, at most 1: by default the share of "
        "correctly answered held-out samples."
    )
    accuracy_low: float = Field(description="Lower end of its 95 % confidence interval.")
    accuracy_high: float = Field(description="Upper end of its 95 % confidence interval.")
    samples: int
    drop: Drop | None = Field(
        default=None, description="Relative to the baseline; null for the baseline itself."
    )
    agreement: Agreement | None = Field(
        default=None,
        description="With the baseline; null for the baseline itself and in older artifacts.",
    )
    others: dict[str, Score] = Field(default={}, description="The recipe's other metrics.")
    latency: tuple[Latency, ...] = Field(min_length=1)
    size_bytes: int = Field(
        ge=0, lt=2**63, description="Bytes that a replica loads: program, or float weights."
    )

    def at_batch(self, batch: int) -> Latency:
        """Return the latency at a batch size of the recipe's ``evaluation.batches``."""
        return next(entry for entry in self.latency if entry.batch == batch)

    @property
    def typical_ms(self) -> float:
        """Geometric mean of the medians over batch sizes; the fastest program has the smallest."""
        return geometric_mean(entry.p50_ms for entry in self.latency)


class Manifest(Record):
    """Schema of ``manifest.json``."""

    schema_version: Literal[2] = 2
    name: ArtifactName
    recipe: dict[str, Any] = Field(description="The recipe of the build, including defaults.")
    recipe_key: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="Identity of the build: sha256 of recipe, data, code versions.",
    )
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    image: ImageInput | None = Field(description="Image preprocessing, if the model takes images.")
    text: TextInput | None = Field(description="Tokenizing, if the model takes text.")
    labels: tuple[str, ...] = Field(
        description="Name of each output, in their order; empty for embeddings and unnamed numbers."
    )
    activation: OutputActivation = Field(
        default="softmax",
        description="Meaning of the output, which programs return without it: softmax, one of the "
        "labels; sigmoid, each label by itself; none, numbers.",
    )
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
        default={}, description="Baselines on the targets after the first, by target."
    )
    measured: dict[Line, Measurement] = Field(
        default={},
        description="Measurements of each program as reloaded from the artifact, by target/kind.",
    )
    fastest: dict[Line, Line] = Field(
        default={}, description="Target → kind of the fastest measured program."
    )
    max_batch_size: Literal[1] | None = Field(
        default=None,
        description="1: programs compute one item per run, and servers join no requests.",
    )
    metric: Line = Field(default="accuracy", description="Metric of which `accuracy` is the mean.")
    index_limits: dict[str, tuple[IndexRange, ...]] = Field(
        default={},
        description="Input with elements that index a table, such as token ids → their ranges.",
    )
    profile: Profile | None = Field(
        default=None, description="Possible cuts of the model, and the cost of its parts."
    )
    layouts: tuple[Layout, ...] = Field(default=(), description="The model cut into shards.")

    @model_validator(mode="before")
    @classmethod
    def _embeddings_of_earlier_versions(cls, raw: Any) -> Any:
        """Complete a manifest without ``activation``: only embeddings had no labels."""
        if isinstance(raw, dict) and "activation" not in raw and not raw.get("labels"):
            return {**raw, "activation": "none"}
        return raw

    @field_validator("index_limits", mode="before")
    @classmethod
    def _rows_of_older_artifacts(cls, value: Any) -> Any:
        """Read a number of rows, which older artifacts have, as the range of all elements."""
        if not isinstance(value, dict):
            return value
        return {k: [{"high": v - 1}] if isinstance(v, int) else v for k, v in value.items()}

    @field_validator("files")
    @classmethod
    def _no_conflicting_paths(cls, value: dict[str, FileEntry]) -> dict[str, FileEntry]:
        paths = {*value, FILE_NAME}
        for path in value:
            if path == FILE_NAME or paths & set(map(str, PurePosixPath(path).parents)):
                raise ValueError(f"{path} conflicts with another file")
        return value

    @model_validator(mode="after")
    def _equal_batches(self) -> Manifest:
        """Check that all measurements are at equal batches, which tables and speed-ups compare."""
        measurements = [*self.measured.values(), *self.other_baselines.values()]
        measurements += [self.baseline] if self.baseline is not None else []
        batches = {tuple(entry.batch for entry in item.latency) for item in measurements}
        if len(batches) > 1 or any(sizes[0] != 1 for sizes in batches):
            raise ValueError(f"measured at batches {batches}, expected equal ones that start at 1")
        return self

    @property
    def one_by_one(self) -> bool:
        """Whether programs compute one item per run, and servers join no requests."""
        return self.max_batch_size == 1

    def inputs_of(self, entry: ProgramEntry) -> tuple[TensorSpec, ...]:
        """Return a program's inputs: the model's, or those of its part."""
        return self.inputs if entry.inputs is None else entry.inputs

    def winner(self, target: str) -> Measurement:
        """Return the measurements of the target's fastest program; ArtifactError if absent."""
        measurement = self.measured.get(f"{target}/{self.fastest.get(target)}")
        if measurement is None:
            raise ArtifactError(
                f"artifact {self.name} has no measured program for {target}; it has "
                f"{', '.join(self.measured) or 'none'}. Build it again with `headrace compress`"
            )
        return measurement

    def layout(self, key: str) -> Layout:
        """Return the layout of a key; ArtifactError if absent."""
        layout = next((layout for layout in self.layouts if layout.key == key), None)
        if layout is None:
            raise ArtifactError(
                f"artifact {self.name} has no layout {key}; it has "
                f"{', '.join(layout.key for layout in self.layouts) or 'none'}"
            )
        return layout

    def to_json(self) -> bytes:
        """Return canonical JSON; the artifact's id is the sha256 of these bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"

    @staticmethod
    def from_json(raw: bytes, location: str) -> Manifest:
        """Read a manifest; :class:`ArtifactError` if it is foreign or of another schema version."""
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{location}: not JSON: {error}") from None
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{location}: manifest schema_version is {version!r:.100}, this Headrace reads "
                f"{SCHEMA_VERSION}; build the artifact again with `headrace compress`"
            )
        if _levels_exceed(data, _MAX_LEVELS):
            raise ArtifactError(
                f"{location}: not a Headrace manifest: its lists and objects are nested more "
                f"than {_MAX_LEVELS} levels deep"
            )
        try:
            return Manifest.model_validate(data)
        except ValidationError as error:
            raise ArtifactError(
                f"{location}: not a Headrace manifest: {_problems(error)}"
            ) from None


def _levels_exceed(data: Any, limit: int) -> bool:
    if isinstance(data, dict):
        data = data.values()
    elif not isinstance(data, list):
        return False
    return limit == 0 or any(_levels_exceed(item, limit - 1) for item in data)


def _problems(error: ValidationError) -> str:
    """Return the problems on one line, with untrusted texts escaped."""
    return "; ".join(
        f"{printable('.'.join(map(str, problem['loc'])))}: {printable(problem['msg'])} (given: "
        f"{problem['input']!r:.100})"
        for problem in error.errors(include_url=False)
    )


def content_id(manifest: bytes) -> str:
    """Return the id of the artifact with this ``manifest.json``: its sha256, 64 hex digits.

    The manifest names the hash of every other file, so the id covers all of them.
    """
    return sha256(manifest).hexdigest()
