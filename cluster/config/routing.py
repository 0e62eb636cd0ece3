"""Routes: several models as one answer, each route one class with every knob it has.

ensemble | multi_task | cascade | quorum | hedge | shadow | canary | scatter | chain
    → Route, told apart by ``kind``; its targets are models served here, or other routes
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from cluster.config.base import MODEL_NAME, Config
from cluster.config.serving import Limits
from cluster.tensors import TensorSpec

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")]

Combine = Annotated[str, Field(pattern=r"^(mean|vote|python:[\w.]+:[\w.]+)$")]
"""mean: of the probabilities, by weight. vote: each one's likeliest label, by weight. Otherwise a
function of yours."""

CALIBRATED = "calibrated"


class Target(Config):
    """Whom a route asks. In YAML also just the name."""

    target: str = Field(pattern=MODEL_NAME, description="A model served here, or another route.")
    timeout_s: Finite | None = Field(
        default=None,
        gt=0,
        description="How long its answer is waited for; null: as long as the request has left.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_its_name(cls, value: Any) -> Any:
        return {"target": value} if isinstance(value, str) else value


class WeightedTarget(Target):
    """One voice among several."""

    weight: Finite = Field(default=1.0, gt=0, description="How much its answer counts.")


class _Route(Config):
    name: str = Field(
        pattern=MODEL_NAME, description="What clients call it: /v2/models/NAME/infer."
    )
    timeout_s: Finite | None = Field(
        default=None,
        gt=0,
        description="Longest time a request of this route may take; null: the server's maximum.",
    )
    cache_bytes: int = Field(
        default=0,
        ge=0,
        description="Answers kept, by the content of the input, up to so many bytes; 0 keeps none.",
    )

    @property
    def asked(self) -> tuple[Target, ...]:
        """Everyone the route may ask, in order."""
        raise NotImplementedError


class _Combined(_Route):
    targets: tuple[WeightedTarget, ...] = Field(min_length=2, description="All asked at once.")
    combine: Combine = Field(
        default="mean",
        description="mean of the probabilities, majority vote, or python:module:function of "
        "(answers, weights); both of the former by the targets' weights.",
    )
    outputs: tuple[TensorSpec, ...] = Field(
        default=(), description="What the function of combine: python:... returns."
    )
    min_answers: int | None = Field(
        default=None,
        ge=1,
        description="How many answers are enough when others fail or are late; null: as many as "
        "the route waits for.",
    )

    @property
    def asked(self) -> tuple[Target, ...]:
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
    """The first ``k`` answers are combined; the rest is cancelled."""

    kind: Literal["quorum"]
    k: int = Field(ge=1, description="Answers that are enough.")

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
    tasks: dict[TaskName, Target] = Field(min_length=2, description="Task → who answers it.")
    min_answers: int | None = Field(
        default=None, ge=1, description="How many tasks are enough when others fail; null: all."
    )

    @property
    def asked(self) -> tuple[Target, ...]:
        return tuple(self.tasks.values())

    @model_validator(mode="after")
    def _there_are_so_many(self) -> Self:
        _at_most(self, "min_answers", self.min_answers, len(self.tasks))
        return self


class Cascade(_Route):
    """Each item is answered by the first target that is sure enough of it."""

    kind: Literal["cascade"]
    targets: tuple[Target, ...] = Field(min_length=2, description="The cheapest first.")
    thresholds: tuple[Share, ...] | Literal["calibrated"] = Field(
        description="Probability of the likeliest label from which a target's answer stands: one "
        "number for each target but the last, a single number for all of them, or `calibrated`: "
        "what `headrace calibrate` found for these artifacts.",
    )
    min_answers: int | None = Field(
        default=None,
        ge=1,
        description="How many of the targets asked must answer: fewer than all lets an unsure "
        "answer stand when a later target fails. null: all.",
    )

    @property
    def asked(self) -> tuple[Target, ...]:
        return self.targets

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        given = value.get("thresholds") if isinstance(value, dict) else None
        if isinstance(given, int | float) and not isinstance(given, bool):
            # At least one: what is wrong with the number itself is then said, too.
            wanted = max(1, len(value.get("targets") or ()) - 1)
            return {**value, "thresholds": (given,) * wanted}
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
    """A second replica, or target, is asked when the first is slow; the first answer wins."""

    kind: Literal["hedge"]
    target: Target = Field(description="Asked first.")
    backup: Target | None = Field(
        default=None, description="Asked second; null: another replica of the first."
    )
    after_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["p95"] = Field(
        default="p95", description="When; p95: what 95 of its last 100 answers took, measured."
    )
    budget: Share = Field(default=0.05, description="Second requests as a share of all, at most.")

    @property
    def asked(self) -> tuple[Target, ...]:
        return (self.target, self.backup or self.target)


class Shadow(_Route):
    """A share of the requests also goes to another version, which nobody waits for."""

    kind: Literal["shadow"]
    target: Target = Field(description="Whose answer the client gets.")
    shadow: Target = Field(description="Whose answer is compared with it.")
    share: Share = Field(default=1.0, description="Requests that are compared, 0..1.")

    @property
    def asked(self) -> tuple[Target, ...]:
        return (self.target, self.shadow)


class Canary(_Route):
    """A share of the requests is answered by a new version, until it proves worse."""

    kind: Literal["canary"]
    target: Target = Field(description="The old version, to which everything returns.")
    candidate: Target = Field(description="The new version.")
    share: Share = Field(description="Requests the new version answers, 0..1, by their id.")
    max_error_rate: Share = Field(
        default=0.05, description="Share of the candidate's requests that may fail."
    )
    max_disagreement: Share | None = Field(
        default=None,
        description="Share of compared items that may get another label; null compares none.",
    )
    compared_share: Share = Field(
        default=0.1,
        description="Share of the candidate's requests that the old version answers, too, to "
        "compare; they are not kept waiting.",
    )
    window: int = Field(default=200, ge=10, description="How many of the last requests are judged.")
    min_requests: int = Field(default=20, ge=1, description="None is judged on fewer than these.")

    @property
    def asked(self) -> tuple[Target, ...]:
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
    """One large batch over the replicas of a model, in parts side by side."""

    kind: Literal["scatter"]
    target: Target = Field(description="Who answers the parts.")
    part_items: int | None = Field(
        default=None, ge=1, description="Items of a part; null: the target's max_batch_size."
    )

    @property
    def asked(self) -> tuple[Target, ...]:
        return (self.target,)


class Chain(_Route):
    """What one target answers, the next one is asked."""

    kind: Literal["chain"]
    targets: tuple[Target, ...] = Field(min_length=2, description="In this order.")

    @property
    def asked(self) -> tuple[Target, ...]:
        return self.targets


Route = Annotated[
    Ensemble | MultiTask | Cascade | Quorum | Hedge | Shadow | Canary | Scatter | Chain,
    Field(discriminator="kind"),
]


class RouterArgs(Config):
    """`args:` of an application with `import_path: deployments.app:router`."""

    routes: tuple[Route, ...] = Field(min_length=1, description="What clients may ask for.")
    limits: Limits = Field(default=Limits(), description="The largest request.")
    max_ongoing_requests: int = Field(
        default=256, ge=1, description="Requests the router holds at once."
    )
    store: str | None = Field(
        default=None,
        description="Where calibrated thresholds are; null takes HEADRACE_STORE, else "
        "~/.headrace/store.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [route.name for route in self.routes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two routes are called {', '.join(twice)}; give each its own name")
        return self


def _at_most(route: _Route, field: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise ValueError(
            f"{field}={value} is more than the {most} targets of route {route.name}; give at most "
            f"{most}"
        )
