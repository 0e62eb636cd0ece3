"""Plan file, as ``headrace plan --json`` prints it: read strictly, and only for its own artifact.

bytes → fields and their bounds → their consistency → comparison with the artifact → Plan
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from cluster.artifact.artifact import Artifact
from cluster.artifact.layout import name_of
from cluster.errors import ConfigError
from cluster.parallel.plan import Placement, bundles
from deployments.kubernetes.schemas import path_text

_MAX_BYTES = 2**44
"""Bound of a shard's memory, above that of any machine."""

_Finite = Annotated[float, AllowInfNan(False), Field(ge=0)]
_Bytes = Annotated[int, Field(ge=0, le=_MAX_BYTES)]
_Number = Annotated[int, Field(ge=0)]
_Amount = Annotated[float, AllowInfNan(False), Field(gt=0, le=1024)]


class _Part(BaseModel):
    """Immutable model that converts nothing and refuses unknown fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Shard(_Part):
    """One shard, its place in the plan, and its memory in bytes."""

    stage: _Number
    tp_rank: _Number
    device: _Number
    node: _Number
    weight_bytes: _Bytes
    activation_bytes: _Bytes
    buffer_bytes: _Bytes

    @property
    def memory_bytes(self) -> int:
        """Memory of weights, activations and buffers."""
        return self.weight_bytes + self.activation_bytes + self.buffer_bytes


class Plan(_Part):
    """Cut of an artifact and the resources of one replica."""

    artifact: str
    model: str
    target: str
    pipeline: int = Field(ge=1, le=256)
    tensor: int = Field(ge=1, le=64)
    layout: str | None
    built: bool
    batch: int = Field(ge=1, le=1024)
    shards: tuple[Shard, ...]
    stage_ms: tuple[_Finite, ...]
    hop_ms: tuple[_Finite, ...]
    bundles: tuple[dict[str, _Amount], ...]
    placement: Placement
    latency_ms: _Finite
    items_per_s: _Finite
    memory_bytes: _Bytes

    @property
    def cut(self) -> bool:
        """Whether a replica has more than one shard."""
        return self.pipeline * self.tensor > 1

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        places = [(stage, rank) for stage in range(self.pipeline) for rank in range(self.tensor)]
        if [(shard.stage, shard.tp_rank) for shard in self.shards] != places:
            raise ValueError(
                f"shards: pipeline {self.pipeline} × tensor {self.tensor} needs {len(places)}, in "
                f"order of stage and tp_rank (given: {len(self.shards)})"
            )
        threads = int(self.bundles[-1].get("CPU", 0)) if self.bundles else 0
        expected = bundles(self.target, len(places), threads)
        if threads < 1 or self.bundles != expected:
            raise ValueError(
                f"bundles: must be {json.dumps(bundles(self.target, len(places), max(threads, 1)))}"
                f" for {len(places)} shards on {self.target}"
            )
        if self.built and (self.layout is not None) is not self.cut:
            raise ValueError(
                f"layout: {self.layout!r} does not match {name_of(self.pipeline, self.tensor)}: a "
                "built cut has a layout, a whole model has none"
            )
        return self


def read_plan(path: Path, artifact: Artifact) -> Plan:
    """Return the plan in a file; ConfigError if it is invalid or of another artifact."""
    plan = _parsed(path)
    manifest = artifact.manifest
    command = f"headrace plan {manifest.name} --json > {path}"
    if plan.model != manifest.name:
        raise ConfigError(
            f"--plan {path}: the plan is for {plan.model}, expected {manifest.name}; "
            f"run `{command}`"
        )
    if plan.artifact != artifact.id:
        raise ConfigError(
            f"--plan {path}: the plan is for another build of {plan.model}: artifact "
            f"{plan.artifact[:12]}, expected {str(artifact.id)[:12]}; run `{command}`"
        )
    if not plan.built:
        raise ConfigError(
            f"--plan {path}: the plan's cut is not built; add `parallel: [{{pipeline: "
            f"{plan.pipeline}, tensor: {plan.tensor}}}]` to the recipe, build it and plan again"
        )
    keys = {
        each.key
        for each in manifest.layouts
        if (each.target, each.pipeline, each.tensor) == (plan.target, plan.pipeline, plan.tensor)
    }
    if plan.layout is not None and plan.layout not in keys:
        known = ", ".join(sorted(keys)) or "none"
        raise ConfigError(
            f"--plan {path}: layout: the artifact has no cut {plan.layout} for {plan.target}, "
            f"pipeline {plan.pipeline} × tensor {plan.tensor} (known: {known}); run `{command}`"
        )
    return plan


def _parsed(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"--plan {path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        lines = [_line(problem) for problem in error.errors()]
        raise ConfigError(
            "\n".join(
                f"--plan {path}: not a file of `headrace plan --json`: {line}; write it again"
                for line in lines
            )
        ) from None
    except ValueError as error:  # a path with a NUL
        raise ConfigError(f"--plan {path}: cannot be read: {error}") from None


def _line(problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # about several fields, which the message names
        return message
    field = path_text(problem["loc"])
    if problem["type"] == "missing":
        return f"{field}: required field is missing"
    return f"{field}: {message} (given: {problem['input']!r:.60})"
