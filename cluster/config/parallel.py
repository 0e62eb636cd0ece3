"""Cuts of one model over several devices: in a build, and in a deployment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cluster.config.base import Config

Sliced = Literal["column", "row"]
"""Division of a layer's weights among tensor ranks: by outputs (column) or by inputs (row)."""


class ParallelBuild(Config):
    """One way to cut the model, built into the artifact beside the whole program."""

    pipeline: int = Field(default=1, ge=1, le=256, description="Stages, one after the other.")
    tensor: int = Field(
        default=1, ge=1, le=64, description="Slices of every stage, which compute in parallel."
    )
    target: str | None = Field(
        default=None, description="One of the recipe's programs' targets; null: the first."
    )
    kind: Literal["aoti", "openvino", "exported"] | None = Field(
        default=None,
        description="Kind of its programs. null: the whole model's fastest kind that supports the "
        "cut: stages with all three, slices without openvino.",
    )
    slices: dict[str, Sliced] | None = Field(
        default=None,
        description="For tensor slices of a custom model: names of its linear layers, with "
        "wildcards → column (outputs are divided) or row (inputs are divided: the outputs of a "
        "column layer). null: the built-in plan of its family (ViT, BERT, GPT-2, Llama).",
    )

    @model_validator(mode="after")
    def _cuts_something(self) -> ParallelBuild:
        if self.pipeline * self.tensor == 1:
            raise ValueError("pipeline=1 and tensor=1 cut nothing; give one of them 2 or more")
        if self.tensor > 1 and self.kind == "openvino":
            raise ValueError(
                "kind openvino cannot exchange slices' sums; use aoti, or tensor=1 and stages"
            )
        if self.slices is not None and self.tensor == 1:
            raise ValueError("slices need tensor above 1; remove slices or give tensor=2")
        return self


class Parallel(Config):
    """Devices of one replica of a served model; the artifact must contain the cut."""

    pipeline: int | Literal["auto"] = Field(
        default="auto",
        description="Stages. auto: with `tensor`, the cut of fewest devices among the artifact's "
        "that fits them, and of those the fastest.",
    )
    tensor: int | Literal["auto"] = Field(default="auto", description="Tensor ranks of a stage.")
    devices_per_replica: int | None = Field(
        default=None, ge=1, description="At most so many devices, if pipeline or tensor is auto."
    )
    device_memory: int | None = Field(
        default=None, ge=1, description="Bytes of one device that a shard may fill; null: no limit."
    )
    placement: Literal["PACK", "STRICT_PACK", "SPREAD"] = Field(
        default="PACK",
        description="Placement of a replica's shards by Ray: on as few nodes as it can, on one, or "
        "on as many as it can.",
    )
    max_inflight: int | None = Field(
        default=None,
        ge=1,
        description="Micro-batches inside the pipeline at once; null: stages + 1.",
    )
    failure_timeout_s: float = Field(
        default=4.0,
        gt=0,
        le=600,
        description="Heartbeat timeout of a shard, after which its replica fails: "
        "requests in flight get status 503. A micro-batch may take ten times as long.",
    )
    start_timeout_s: float = Field(
        default=120.0, gt=0, description="Time limit for placing and loading all shards."
    )
