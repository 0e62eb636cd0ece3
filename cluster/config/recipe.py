"""Recipe of an artifact: model, data, steps, evaluation, gate and programs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.activation import OutputActivation
from cluster.config.base import NAME_LENGTH, ArtifactName, Config
from cluster.config.gate import Gate
from cluster.config.parallel import ParallelBuild
from cluster.config.search import Search
from cluster.config.sources import DataSource, ModelSource
from cluster.config.steps import Distill, Step, Train, trains

METRICS: dict[str, OutputActivation | None] = {
    "accuracy": "softmax",
    "f1": "sigmoid",
    "r2": "none",
    "mean_absolute_error": "none",
    "mean_squared_error": "none",
    "cosine": None,
    "ranking": None,
}
"""Metric → activation of the outputs that it compares with labels; None: it needs no labels."""

ERRORS = ("mean_absolute_error", "mean_squared_error")
"""Metrics in the labels' units, of which less is better."""


class Evaluation(Config):
    """Measurement of the finished artifact and the baseline, in fresh processes."""

    samples: int | None = Field(
        default=None, ge=1, description="Held-out samples for accuracy; null: all."
    )
    metrics: tuple[str, ...] = Field(
        default=("accuracy",),
        min_length=1,
        description="By model.activation: accuracy (softmax), f1 (sigmoid: mean over samples), r2, "
        "mean_absolute_error and mean_squared_error (none). For embeddings cosine and ranking "
        "(agreement with the baseline). Or python:module:function. The first decides; the others "
        "are reported.",
    )
    batches: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        default=(1, 8),
        min_length=1,
        description="Batch sizes (buckets) at which every program is measured, and for which "
        "static shapes are tried.",
    )
    repeats: int = Field(
        default=100,
        ge=5,
        description="Timed runs per batch size, baseline and artifact in turn; a p99 needs 100.",
    )
    compute_threads: int = Field(
        default=1, ge=1, description="CPU threads of both, as of a replica."
    )

    @property
    def largest_batch(self) -> int:
        """Largest batch of the check that items do not depend on their batch."""
        return max(8, *self.batches)

    @field_validator("metrics")
    @classmethod
    def _known_metric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in METRICS and not re.fullmatch(r"python:[\w.]+:[\w.]+", name):
                raise ValueError(
                    f"{name!r} is not one of {', '.join(METRICS)}, python:module:function"
                )
        if value[0] in ERRORS:
            raise ValueError(
                f"{value[0]} comes first, but is in the labels' units and has no score of which a "
                "drop is a share; put r2 first, 1 minus the squared error over the labels' variance"
            )
        return value

    @field_validator("batches")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)) or value[0] != 1:
            raise ValueError(f"{list(value)} must rise from 1, each batch size once")
        return value


ProgramKindName = Literal["aoti", "openvino", "exported", "eager"]


class ProgramBuild(Config):
    """Target, and the kinds of program that compete for it."""

    target: str = Field(
        default="cpu-x86",
        pattern=r"^(cpu-x86|cuda-sm\d{2,3})$",
        description="Device of the programs: cpu-x86, or such as cuda-sm90.",
    )
    kinds: tuple[ProgramKindName, ...] | None = Field(
        default=None,
        min_length=1,
        description="aoti: AOTInductor, native code. openvino: OpenVINO IR (extra, x86). exported: "
        "the graph, run by PyTorch. eager: the Python module. null: aoti, and openvino where it "
        "is installed. All are built and measured; the fastest wins.",
    )


WHOLE_SCHEMES = {
    "static_int8": "the ranges of its activations are calibrated on the whole model",
    "weight_only_int4": "a slice would cut through groups of weights that share a scale",
    "float8": "its kernels read whole rows",
}
"""Schemes that exclude tensor slices, with the reason."""


class Recipe(Config):
    """Recipe of the compression job, from the model's source to the artifact."""

    name: ArtifactName = Field(description="Name of the artifact in the store.")
    model: ModelSource = Field(description="The model.")
    data: DataSource = Field(default=DataSource(), description="Labelled samples.")
    steps: tuple[Step, ...] = Field(default=(), description="Changes of the model, in order.")
    search: Search | None = Field(
        default=None,
        description="Find the steps that follow `steps` by trial, within the gate's budget.",
    )
    evaluation: Evaluation = Field(default=Evaluation(), description="Measurement of the result.")
    gate: Gate = Field(default=Gate(), description="Limits of the result.")
    programs: tuple[ProgramBuild, ...] = Field(
        default=(ProgramBuild(),), min_length=1, description="The programs to compile."
    )
    parallel: tuple[ParallelBuild, ...] = Field(
        default=(), description="Cuts of the model over several devices, built in addition."
    )
    seed: int = Field(default=0, ge=0, description="Seed of every random choice.")

    @property
    def baseline_source(self) -> ModelSource:
        """Model that the artifact is compared with.

        It is the recipe's model after its leading training steps. If the next step distils another
        model, it is that teacher, which the artifact replaces.
        """
        after = next((step for step in self.steps if step.kind != "train"), None)
        if isinstance(after, Distill) and after.teacher is not None and after.teacher.model:
            return after.teacher.model.with_inputs_of(self.model)
        return self.model

    @property
    def one_by_one(self) -> bool:
        """Whether the model or the baseline computes one item per run."""
        return 1 in (self.model.max_batch_size, self.baseline_source.max_batch_size)

    def limits_for(self, searched: Sequence[Step] = ()) -> Gate:
        """Return the gate for this recipe's steps and those that a search added, ``searched``."""
        steps = (*self.steps, *searched)
        first = next((i for i, s in enumerate(steps) if not isinstance(s, Train)), len(steps))
        return self.gate.applied(trains_after_baseline=any(map(trains, steps[first:])))

    @model_validator(mode="after")
    def _steps_in_order(self) -> Recipe:
        quantized = next((i for i, step in enumerate(self.steps) if step.kind == "quantize"), None)
        if quantized is not None and quantized != len(self.steps) - 1:
            raise ValueError(
                f"steps[{quantized}] quantizes and must be the last step: steps[{quantized + 1}] "
                f"({self.steps[quantized + 1].kind}) cannot change a quantized model"
            )
        if quantized is not None and self.search is not None:
            raise ValueError(
                f"steps[{quantized}] quantizes, so a search can change nothing after it; move the "
                "scheme to search.space.schemes"
            )
        self._zeros_stay()
        self._names_fit()
        targets = [program.target for program in self.programs]
        if len(set(targets)) != len(targets):
            raise ValueError(f"programs have a duplicate target: {targets}; remove one")
        self._cuts_fit(targets)
        return self

    def _cuts_fit(self, targets: Sequence[str]) -> None:
        """Raise ValueError for a cut that the recipe's programs or quantization exclude."""
        if self.parallel and self.model.max_batch_size == 1:
            raise ValueError(
                f"parallel has {len(self.parallel)} cuts, whose stages compute batches, but "
                "model.max_batch_size is 1; remove one of the two"
            )
        scheme = next((step.scheme for step in self.steps if step.kind == "quantize"), None)
        seen = set()
        for position, cut in enumerate(self.parallel):
            if cut.target is not None and cut.target not in targets:
                raise ValueError(
                    f"parallel[{position}].target {cut.target} is not one of the programs' "
                    f"targets: {', '.join(targets)}"
                )
            if cut.tensor > 1 and scheme in WHOLE_SCHEMES:
                raise ValueError(
                    f"parallel[{position}].tensor={cut.tensor}: {scheme} cannot be sliced, because "
                    f"{WHOLE_SCHEMES[scheme]}; use pipeline stages, or another scheme"
                )
            key = (cut.target or targets[0], cut.pipeline, cut.tensor)
            if key in seen:
                raise ValueError(
                    f"parallel[{position}] repeats the cut {cut.pipeline} × {cut.tensor} for "
                    f"{key[0]}; remove it"
                )
            seen.add(key)

    def _names_fit(self) -> None:
        """Raise ValueError if names of a search's front would be too long."""
        if self.search is None:
            return
        longest = NAME_LENGTH - len(f".front-{self.search.space.most_trials}")
        if len(self.name) > longest:
            raise ValueError(
                f"name {self.name!r} has {len(self.name)} characters; with a search it may have "
                f"{longest}, because artifacts of its front are called NAME.front-NUMBER"
            )

    def _zeros_stay(self) -> None:
        """Raise ValueError if a later step's training would change zeros of an earlier step."""
        sparse: int | None = None
        for position, step in enumerate(self.steps):
            trains = step.kind in ("train", "distill") or (
                step.kind == "quantize" and step.training is not None
            )
            if sparse is not None and trains:
                raise ValueError(
                    f"steps[{position}] ({step.kind}) trains, and would fill the zeros of "
                    f"steps[{sparse}]; train in steps[{sparse}].recovery, which keeps them, or "
                    "before it"
                )
            if step.kind == "prune" and step.method != "structured":
                sparse = position
