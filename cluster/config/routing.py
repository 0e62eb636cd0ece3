"""Routes: several models as one answer, one class per kind of route with all of its settings.

ensemble | multi_task | cascade | quorum | hedge | shadow | canary | scatter | chain
    → Route, chosen by ``kind``; its targets are models served here, or other routes
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from cluster.config.base import MODEL_NAME, Config
from cluster.config.origins import CorsOrigins
from cluster.config.serving import Limits
from cluster.tensors import TensorSpec

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")]

Combine = Annotated[str, Field(pattern=r"^(mean|vote|python:[\w.]+:[\w.]+)$")]
"""mean: of the probabilities, by weight. vote: of the likeliest labels, by weight. Otherwise a
user's function."""

CALIBRATED = "calibrated"


class Target(Config):
    """Target that a route calls. In YAML its name is enough."""

    target: str = Field(pattern=MODEL_NAME, description="A model served here, or another route.")
    timeout_s: Finite | None = Field(
        default=None,
        gt=0,
        description="Timeout of its answer; null: the remaining time of the request.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_its_name(cls, value: Any) -> Any:
        return {"target": value} if isinstance(value, str) else value


class WeightedTarget(Target):
    """Target with a weight."""

    weight: Finite = Field(default=1.0, gt=0, description="Weight of its answer.")


class _Route(Config):
    name: str = Field(pattern=MODEL_NAME, description="Name for clients: /v2/models/NAME/infer.")
    timeout_s: Finite | None = Field(
        default=None,
        gt=0,
        description="Timeout of a request of this route; null: the server's maximum.",
    )
    cache_bytes: int = Field(
        default=0,
        ge=0,
        description="Size of the cache of answers, by the content of the input; 0: no cache.",
    )

    @property
    def all_targets(self) -> tuple[Target, ...]:
        """All targets that the route may call, in order."""
        raise NotImplementedError


class _Combined(_Route):
    targets: tuple[WeightedTarget, ...] = Field(
        min_length=2, description="Targets, all called at once."
    )
    combine: Combine = Field(
        default="mean",
        description="mean of the probabilities, majority vote, or python:module:function of "
        "(answers, weights); both of the former by the targets' weights.",
    )
    outputs: tuple[TensorSpec, ...] = Field(
        default=(), description="Outputs of the function of combine: python:..."
    )
    min_answers: int | None = Field(
        default=None,
        ge=1,
        description="Minimum number of answers if others fail or are late; null: as many as the "
        "route waits for.",
    )

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return self.targets

    @model_validator(mode="after")
    def _outputs_of_the_function(self) -> Self:
        if self.combine.startswith("python:") != bool(self.outputs):
            raise ValueError(
                f"combine {self.combine} {'takes no' if self.outputs else 'needs'} outputs: give "
                "name, datatype and shape of each with a python: function, and only there"
            )
        return self


class Ensemble(_Combined):
    """All targets answer, and their answers are combined."""

    kind: Literal["ensemble"]

    @model_validator(mode="after")
    def _there_are_so_many(self) -> Self:
        _at_most(self, "min_answers", self.min_answers, len(self.targets))
        return self


class Quorum(_Combined):
    """The first ``k`` answers are combined; the other calls are cancelled."""

    kind: Literal["quorum"]
    k: int = Field(ge=1, description="Number of answers to combine.")

    @model_validator(mode="after")
    def _there_are_so_many(self) -> Self:
        _at_most(self, "k", self.k, len(self.targets))
        if self.min_answers is not None and self.min_answers > self.k:
            raise ValueError(
                f"min_answers={self.min_answers} is more than k={self.k}, which is enough; give "
                f"at most {self.k}"
            )
        return self


class MultiTask(_Route):
    """Different models on one input; outputs are called TASK.OUTPUT."""

    kind: Literal["multi_task"]
    tasks: dict[TaskName, Target] = Field(min_length=2, description="Task → target.")
    min_answers: int | None = Field(
        default=None, ge=1, description="Minimum number of tasks if others fail; null: all."
    )

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return tuple(self.tasks.values())

    @model_validator(mode="after")
    def _there_are_so_many(self) -> Self:
        _at_most(self, "min_answers", self.min_answers, len(self.tasks))
        return self


class Cascade(_Route):
    """Each item is answered by the first target with enough confidence."""

    kind: Literal["cascade"]
    targets: tuple[Target, ...] = Field(min_length=2, description="The cheapest first.")
    thresholds: tuple[Share, ...] | Literal["calibrated"] = Field(
        description="Minimum probability of the likeliest label for a final answer: one number for "
        "each target but the last, a single number for all of them, or `calibrated`: the result "
        "of `headrace calibrate` for these artifacts.",
    )
    min_answers: int | None = Field(
        default=None,
        ge=1,
        description="Minimum number of called targets that must answer. With fewer than all, an "
        "unsure answer is final if a later target fails. null: all.",
    )

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return self.targets

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        threshold = value.get("thresholds") if isinstance(value, dict) else None
        if isinstance(threshold, int | float) and not isinstance(threshold, bool):
            # At least one, so that a wrong number is reported in any case.
            count = max(1, len(value.get("targets") or ()) - 1)
            return {**value, "thresholds": (threshold,) * count}
        return value

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if self.thresholds != CALIBRATED and len(self.thresholds) != len(self.targets) - 1:
            raise ValueError(
                f"{len(self.thresholds)} thresholds for {len(self.targets)} targets; give "
                f"{len(self.targets) - 1}, the last target needs none"
            )
        _at_most(self, "min_answers", self.min_answers, len(self.targets))
        return self


class Hedge(_Route):
    """A second replica, or target, is called when the first is slow; the first answer wins."""

    kind: Literal["hedge"]
    target: Target = Field(description="First target.")
    backup: Target | None = Field(
        default=None, description="Second target; null: another replica of the first."
    )
    after_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["p95"] = Field(
        default="p95",
        description="Delay of the second request; p95: 95th percentile of the last 100 latencies.",
    )
    budget: Share = Field(default=0.05, description="Maximum share of second requests.")

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return (self.target, self.backup or self.target)


class Shadow(_Route):
    """A share of the requests also goes to another version; clients do not wait for it."""

    kind: Literal["shadow"]
    target: Target = Field(description="Version that answers the client.")
    shadow: Target = Field(description="Version whose answers are compared with it.")
    share: Share = Field(default=1.0, description="Share of compared requests, 0..1.")

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return (self.target, self.shadow)


class Canary(_Route):
    """A share of the requests is answered by a new version, until it proves worse."""

    kind: Literal["canary"]
    target: Target = Field(description="The old version, which also replaces a worse new one.")
    candidate: Target = Field(description="The new version.")
    share: Share = Field(description="Share of requests for the new version, 0..1, by their id.")
    max_error_rate: Share = Field(
        default=0.05, description="Maximum share of failures of the candidate's requests."
    )
    max_disagreement: Share | None = Field(
        default=None,
        description="Maximum share of compared items with another label; null: no comparison.",
    )
    compared_share: Share = Field(
        default=0.1,
        description="Share of the candidate's requests that the old version answers, too, for a "
        "comparison; clients do not wait for it.",
    )
    window: int = Field(default=200, ge=10, description="Number of last requests to judge by.")
    min_requests: int = Field(default=20, ge=1, description="Minimum number to judge by.")

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return (self.target, self.candidate)

    @model_validator(mode="after")
    def _fits_the_window(self) -> Self:
        if self.min_requests > self.window:
            raise ValueError(
                f"min_requests={self.min_requests} is more than window={self.window}; the "
                "candidate would never be judged"
            )
        return self


class Scatter(_Route):
    """One large batch over the replicas of a model, in parallel parts."""

    kind: Literal["scatter"]
    target: Target = Field(description="Target of the parts.")
    part_items: int | None = Field(
        default=None, ge=1, description="Items of a part; null: the target's max_batch_size."
    )

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return (self.target,)


class Chain(_Route):
    """One target's outputs are the next target's inputs."""

    kind: Literal["chain"]
    targets: tuple[Target, ...] = Field(min_length=2, description="Targets, in order.")

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return self.targets


Route = Annotated[
    Ensemble | MultiTask | Cascade | Quorum | Hedge | Shadow | Canary | Scatter | Chain,
    Field(discriminator="kind"),
]


class RouterArgs(Config):
    """`args:` of an application with `import_path: deployments.app:router`."""

    routes: tuple[Route, ...] = Field(min_length=1, description="Routes for clients.")
    limits: Limits = Field(default=Limits(), description="Maximum size of a request.")
    cors_origins: CorsOrigins = ()
    max_ongoing_requests: int = Field(
        default=256, ge=1, description="In-flight requests of the router."
    )
    artifacts: dict[str, str] = Field(
        default={},
        description="NAME@ID of the artifacts that the models serve, by model; `headrace up` "
        "writes it. Empty: those of the deployments.",
    )
    store: str | None = Field(
        default=None,
        description="Store of calibrated thresholds; null: HEADRACE_STORE, else ~/.headrace/store.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [route.name for route in self.routes]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(f"duplicate routes {', '.join(duplicates)}; give each its own name")
        return self


def _at_most(route: _Route, field: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise ValueError(
            f"{field}={value} is more than the {most} targets of route {route.name}; give at most "
            f"{most}"
        )
