"""Which calibration belongs to a cascade: the one of the very artifacts that its targets serve.

    route → targets → artifacts → key → the store → thresholds

A threshold holds for the artifacts it was found with, and for no others. `jobs/calibrate.py`
finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from pydantic import ValidationError

from cluster.artifact.artifact import Artifact
from cluster.artifact.served import BoundModel, open_bound
from cluster.artifact.store import open_store
from cluster.config.routing import Cascade, Ensemble, Route
from cluster.errors import ConfigError
from cluster.routing.calibration import Calibration


@dataclass(frozen=True)
class Targets:
    """The routes of a config, and the models that they ask."""

    routes: Mapping[str, Route]
    models: Mapping[str, BoundModel]

    def artifact(self, name: str) -> Artifact:
        """Open the artifact that a model serves."""
        return open_bound(self.models[name])

    def identity(self, name: str) -> str:
        """What a target's answers depend on: its artifact, or those that it combines and how.

        ConfigError for a route of another kind.
        """
        if name in self.models:
            return self.models[name].artifact_id
        route = self.combining(name)
        parts = [f"{target.weight:g}*{self.identity(target.target)}" for target in route.targets]
        return f"{route.combine}({', '.join(parts)})"

    def combining(self, name: str) -> Ensemble:
        """The route of that name; ConfigError unless all its targets are combined by mean or vote.

        A quorum is none: which of its targets answer is another matter every time.
        """
        route = self.routes.get(name)
        if isinstance(route, Ensemble) and route.combine in ("mean", "vote"):
            return route
        what = f"a {route.kind}" if route is not None else "neither a model nor a route"
        raise ConfigError(
            f"{name} is {what}; a cascade is calibrated over models, and over ensembles of them "
            "that combine by mean or vote. Give the thresholds as numbers"
        )


def calibration_key(cascade: Cascade, targets: Targets) -> str:
    """Where the calibration of a cascade of these artifacts is kept."""
    identities = [targets.identity(target.target) for target in cascade.targets]
    return sha256("\n".join(identities).encode()).hexdigest()


def calibrated_thresholds(
    cascade: Cascade, targets: Targets, store: str | None
) -> tuple[float, ...]:
    """The thresholds that were found for a cascade of these artifacts; ConfigError if none were."""
    kept = open_store(store).calibration(calibration_key(cascade, targets))
    names = ", ".join(target.target for target in cascade.targets)
    if kept is None:
        raise ConfigError(
            f"route {cascade.name}: thresholds: calibrated, but the artifacts of {names} as they "
            f"are now were never calibrated together; run `headrace calibrate CONFIG "
            f"{cascade.name} --agreement SHARE`, or give a number"
        )
    try:
        return Calibration.model_validate_json(kept).thresholds
    except ValidationError as error:
        raise ConfigError(
            f"route {cascade.name}: what is kept of its calibration cannot be read; run "
            f"`headrace calibrate` again: {error}"
        ) from None
