"""Search block of a recipe: combinations to try, objective and limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from cluster.config.base import Config, refuse_unused
from cluster.config.steps import Distill, Recovery

Ratio = Annotated[float, Field(gt=0, lt=1)]


class PruneSpace(Config):
    """Pruning steps to choose from; no pruning is always a choice."""

    method: Literal["magnitude", "structured"] = Field(
        default="structured", description="As in the prune step."
    )
    importance: Literal["magnitude", "taylor", "bn"] = Field(
        default="taylor", description="As in the prune step."
    )
    ratios: tuple[Ratio, ...] = Field(
        default=(0.2, 0.3, 0.4, 0.5), min_length=1, description="Shares to remove, each 0..1."
    )
    spare: tuple[str, ...] = Field(default=(), description="Layers that are not pruned.")
    round_to: int = Field(default=8, ge=1, description="As in the prune step.")

    @model_validator(mode="after")
    def _fields_of_the_method(self) -> PruneSpace:
        refuse_unused(self, "method", importance=("structured",), round_to=("structured",))
        return self


def _recovery_class(value: Any) -> str:
    """Return the class of a recovery: only distillation has a ``kind``."""
    has_kind = "kind" in value if isinstance(value, dict) else isinstance(value, Distill)
    return "Distill" if has_kind else "Recovery"


SchemeName = Literal[
    "none",
    "static_int8",
    "dynamic_int8",
    "weight_only_int8",
    "weight_only_int4",
    "bf16",
    "fp16",
    "float8",
]


class SearchSpace(Config):
    """Choices that the search combines: one of each field."""

    prune: PruneSpace | None = Field(default=PruneSpace(), description="null never prunes.")
    schemes: tuple[SchemeName, ...] = Field(
        default=("none", "static_int8", "bf16"),
        min_length=1,
        description="Quantization schemes to choose from; none leaves float32.",
    )
    keep_most_sensitive: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0,),
        min_length=1,
        description="Numbers of most sensitive layers that an integer scheme leaves in bfloat16.",
    )
    calibration: Literal["minmax", "histogram", "percentile"] = Field(
        default="histogram", description="As in the quantize step."
    )
    calibration_samples: int = Field(default=128, ge=1, description="As in the quantize step.")
    recovery: Annotated[
        Annotated[Recovery, Tag("Recovery")] | Annotated[Distill, Tag("Distill")],
        Discriminator(_recovery_class),
    ] = Field(
        default=Recovery(epochs=1),
        description="Training after pruning: fine-tuning, or distillation (with kind: distill).",
    )

    @property
    def most_trials(self) -> int:
        """Largest number of a trial."""
        ratios = len(self.prune.ratios) if self.prune else 0
        return (1 + ratios) * len(self.schemes) * len(self.keep_most_sensitive)


class Search(Config):
    """Find the best combination of steps within the gate's accuracy budget.

    The budget is ``gate.max_accuracy_drop`` with its ``confidence``.
    """

    space: SearchSpace = Field(default=SearchSpace(), description="Choices to combine.")
    objective: Literal["latency", "throughput", "bytes"] = Field(
        default="latency", description="Measure to minimize, or to maximize for throughput."
    )
    batch: int = Field(
        default=1, ge=1, description="latency, throughput: batch size of the measurement."
    )
    time_budget_s: float = Field(
        default=1200, gt=0, description="No trial starts after so many seconds."
    )
    max_trials: int = Field(
        default=24,
        ge=1,
        description="Maximum number of full trials: quantized only, or pruned with the whole "
        "recovery. Failed trials, and those of an earlier job that the search resumes, count. "
        "Trials without recovery, or with a part of it, do not.",
    )
    parallel_trials: int = Field(default=1, ge=1, description="Number of concurrent Ray tasks.")

    @model_validator(mode="after")
    def _something_to_search(self) -> Search:
        if self.space.prune is None and set(self.space.schemes) == {"none"}:
            raise ValueError("the space has nothing to try; add schemes or prune")
        return self
