"""Records of a build, as data: the content of ``report.json`` and ``report.html``.

steps.run    → StepRecord       each step: cost, gain, details
search.run   → SearchRecord     every trial, the Pareto set, the choice
evaluate.run → Measurement      each program, reloaded in a fresh process
gate.check   → Check
             ↘ BuildRecord → report.json, report.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.artifact.layout import Layout
from cluster.artifact.manifest import Measurement, Score


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelSize(_Record):
    """Storage and computation of a model."""

    parameters: int
    nonzero: int = Field(description="Parameters that are not zero.")
    weight_bytes: int = Field(description="All tensors, as stored.")
    macs: int = Field(description="Multiply-accumulates of one item.")


class StepRecord(_Record):
    """Cost and gain of one step. Scores are on the validation samples."""

    kind: str
    title: str = Field(description="The step in a few words, such as 'prune structured 0.5'.")
    settings: dict[str, Any]
    seconds: float
    before: Score
    after: Score
    size_before: ModelSize
    size_after: ModelSize
    details: dict[str, Any] = Field(
        description="By name: 'sensitivity' layer → score drop when that layer alone is "
        "compressed; 'ranges' activation → [low, high]; 'kept' layers; 'losses' per epoch; ..."
    )


_STEPS = "records"


def metadata_of(records: Iterable[StepRecord]) -> dict[str, str]:
    """Return the records as metadata for the safetensors file of the resulting weights."""
    return {_STEPS: json.dumps([record.model_dump(mode="json") for record in records])}


def steps_in(metadata: Mapping[str, str]) -> tuple[StepRecord, ...]:
    """Return the records that :func:`metadata_of` wrote; empty if the file has none."""
    return tuple(map(StepRecord.model_validate, json.loads(metadata.get(_STEPS, "[]"))))


class LayerSize(_Record):
    """One layer's tensors before and after."""

    name: str
    baseline_bytes: int
    bytes: int


class TrialRecord(_Record):
    """One combination that a search tried."""

    number: int
    title: str = Field(description="The combination in a few words.")
    steps: tuple[dict[str, Any], ...] = Field(description="As a recipe would list them.")
    stage: Literal["proxy", "recovered", "failed", "stopped"] = Field(
        description="proxy: without recovery training. recovered: with it. stopped: cancelled "
        "early. failed: see reason."
    )
    reason: str = ""
    score: Score | None = None
    drop_upper: float | None = Field(
        default=None, description="Upper confidence bound of the drop on validation samples."
    )
    latency_ms: float | None = Field(default=None, description="Median at the search's batch.")
    size_bytes: int | None = None
    seconds: float = 0.0
    feasible: bool = False
    on_front: bool = Field(default=False, description="No other trial is better in all measures.")
    artifact: str | None = Field(
        default=None, description="Name of the published artifact, from this report or earlier."
    )


class SearchRecord(_Record):
    """A whole search."""

    objective: str
    batch: int
    budget: float | None
    baseline: TrialRecord
    trials: tuple[TrialRecord, ...]
    chosen: int | None = Field(description="Number of the trial that became the artifact.")
    contributions: tuple[tuple[str, float, float], ...] = Field(
        default=(),
        description="For the chosen trial: step title, change of the score, change of the "
        "latency in ms, each step added to those before it.",
    )
    resumed: int = Field(default=0, description="Results from an earlier job's journal.")
    seconds: float


class BetterNormalization(_Record):
    """Mean and std with which the loaded model scores clearly more than with the recipe's."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    accuracy: float
    stated_accuracy: float = Field(description="With the recipe's mean and std.")
    samples: int = Field(description="Validation samples that both were measured on.")


class SourceCheck(_Record):
    """Checks of the model as loaded, before the first step."""

    better_normalization: BetterNormalization | None = None
    card_accuracy: float | None = Field(
        default=None,
        description="Accuracy by the weights' own card, 0..1, if the baseline has these weights.",
    )


class CheckRecord(_Record):
    """One limit of the gate, with the measured value."""

    name: str
    limit: float | str
    measured: float | str
    passed: bool
    default: bool = Field(default=False, description="The limit is the default, not the recipe's.")
    reason: str = Field(description="One sentence with the numbers and the setting to change.")


class BuildRecord(_Record):
    """The whole build."""

    name: str
    recipe: dict[str, Any]
    accepted: bool
    checks: tuple[CheckRecord, ...]
    metric: str
    target: str
    fastest: str = Field(description="Kind of the program that won on the target.")
    baseline: Measurement | None = Field(
        description="On the first target with a working program; null without one."
    )
    other_baselines: dict[str, Measurement] = Field(
        default={}, description="The recipe's other targets → the baseline there."
    )
    programs: dict[str, Measurement] = Field(description="By target/kind.")
    failed_programs: dict[str, str] = Field(description="target/kind → reason of the failure.")
    left_out_programs: dict[str, str] = Field(
        default={}, description="target/kind → limits that it breaks and other programs keep."
    )
    differences: dict[str, float] = Field(
        default={},
        description="target/kind → difference of its outputs from those of the module that it was "
        "made from, as a share of their spread.",
    )
    quantized_operators: int = Field(
        description="Operators of the fastest program that compute, or are stored, in fewer bits."
    )
    steps: tuple[StepRecord, ...]
    layers: tuple[LayerSize, ...]
    layouts: tuple[Layout, ...] = Field(default=(), description="Shard layouts, as built.")
    search: SearchRecord | None
    seconds: dict[str, float] = Field(description="Phase → seconds.")
    versions: dict[str, str]
    seed: int
    data: dict[str, Any] = Field(
        description="Source, fingerprint, numbers of samples, classes; samples left out."
    )
    machine: dict[str, Any]
    random_weights: bool = Field(
        description="The recipe provides no weights and trains none: scores mean nothing, unless "
        "a python: factory fills in weights, which a recipe does not show."
    )
    source_check: SourceCheck = SourceCheck()
    measured_at: str = Field(description="ISO 8601, UTC.")
