"""The file that ``headrace plan --json`` printed: read strictly, and only for its own artifact.

bytes → fields and their bounds → what they say of each other → the artifact it was made of → Plan
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
from deployments.kubernetes.structure import where

_MOST_BYTES = 2**44
"""Of one shard's weights, say: more than any machine has."""

_Finite = Annotated[float, AllowInfNan(False), Field(ge=0)]
_Bytes = Annotated[int, Field(ge=0, le=_MOST_BYTES)]
_Number = Annotated[int, Field(ge=0)]
_Amount = Annotated[float, AllowInfNan(False), Field(gt=0, le=1024)]


class _Part(BaseModel):
    """Immutable, nothing converted, and a field nobody knows is an error."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Shard(_Part):
    """One shard, where it was planned, and what it fills there."""

    stage: _Number
    tp_rank: _Number
    device: _Number
    node: _Number
    weight_bytes: _Bytes
    activation_bytes: _Bytes
    buffer_bytes: _Bytes

    @property
    def memory_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.activation_bytes + self.buffer_bytes


class Plan(_Part):
    """A cut of an artifact and what one replica of it takes, as ``headrace plan --json`` says."""

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
        """If a replica is more than one shard."""
        return self.pipeline * self.tensor > 1

    @model_validator(mode="after")
    def _of_one_piece(self) -> Plan:
        places = [(stage, rank) for stage in range(self.pipeline) for rank in range(self.tensor)]
        if [(shard.stage, shard.tp_rank) for shard in self.shards] != places:
            raise ValueError(
                f"shards: {len(self.shards)}, of pipeline {self.pipeline} × tensor {self.tensor} "
                f"there are {len(places)}, stage by stage"
            )
        threads = int(self.bundles[-1].get("CPU", 0)) if self.bundles else 0
        wanted = bundles(self.target, len(places), threads)
        if threads < 1 or self.bundles != wanted:
            raise ValueError(
                f"bundles: must be {json.dumps(bundles(self.target, len(places), max(threads, 1)))}"
                f" for {len(places)} shards on {self.target}"
            )
        if self.built and (self.layout is not None) is not self.cut:
            raise ValueError(
                f"layout: {self.layout!r} does not go with {name_of(self.pipeline, self.tensor)}: "
                "a cut that is built has one, a whole model none"
            )
        return self


def read_plan(path: Path, artifact: Artifact) -> Plan:
    """The plan in a file; ConfigError if it is none, or one of another artifact."""
    plan = _parsed(path)
    manifest = artifact.manifest
    anew = f"headrace plan {manifest.name} --json > {path}"
    if plan.model != manifest.name:
        raise ConfigError(f"--plan {path}: is of {plan.model}, not of {manifest.name}; `{anew}`")
    if plan.artifact != artifact.id:
        raise ConfigError(
            f"--plan {path}: is of another build of {plan.model}: of the artifact "
            f"{plan.artifact[:12]}, not of {str(artifact.id)[:12]}; `{anew}`"
        )
    if not plan.built:
        raise ConfigError(
            f"--plan {path}: its cut is not built; add `parallel: [{{pipeline: {plan.pipeline}, "
            f"tensor: {plan.tensor}}}]` to the recipe, build it and plan again"
        )
    keys = {
        each.key
        for each in manifest.layouts
        if (each.target, each.pipeline, each.tensor) == (plan.target, plan.pipeline, plan.tensor)
    }
    if plan.layout is not None and plan.layout not in keys:
        has = ", ".join(sorted(keys)) or "none"
        raise ConfigError(
            f"--plan {path}: layout: {plan.layout} is no cut of the artifact for {plan.target} "
            f"into pipeline {plan.pipeline} × tensor {plan.tensor}: it has {has}; `{anew}`"
        )
    return plan


def _parsed(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"--plan {path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        lines = [_line(each) for each in error.errors()]
        raise ConfigError(
            "\n".join(
                f"--plan {path}: not what `headrace plan --json` prints: {line}; write it anew"
                for line in lines
            )
        ) from None
    except ValueError as error:  # a path with a NUL
        raise ConfigError(f"--plan {path}: cannot be read: {error}") from None


def _line(problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # of the whole file, or of fields together: the message names them
        return message
    field = where(problem["loc"])
    if problem["type"] == "missing":
        return f"{field}: is missing"
    return f"{field}: {message} (given: {problem['input']!r:.60})"
