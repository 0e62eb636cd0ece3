"""Thresholds of a cascade: those calibrated for the artifacts that its targets serve.

    route → targets → artifacts → key → the store → thresholds

A threshold is valid only for the artifacts it was calibrated with, by `jobs/calibrate.py`.
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
    """Targets of a config: its routes, and the models that they call."""

    routes: Mapping[str, Route]
    models: Mapping[str, BoundModel]

    def artifact(self, name: str) -> Artifact:
        """Open the artifact that a model serves."""
        return open_bound(self.models[name])

    def identity(self, name: str) -> str:
        """Return the identity of a target's answers: its artifact's id, or those it combines.

        Raises ConfigError for a route that is no ensemble.
        """
        if name in self.models:
            return self.models[name].artifact_id
        route = self.combining(name)
        parts = [f"{target.weight:g}*{self.identity(target.target)}" for target in route.targets]
        return f"{route.combine}({', '.join(parts)})"

    def combining(self, name: str) -> Ensemble:
        """Return the ensemble of that name; ConfigError unless it combines by mean or vote.

        A quorum cannot be calibrated: any of its targets may answer.
        """
        route = self.routes.get(name)
        if isinstance(route, Ensemble) and route.combine in ("mean", "vote"):
            return route
        kind = f"a {route.kind}" if route is not None else "neither a model nor a route"
        raise ConfigError(
            f"{name} is {kind}; a cascade can be calibrated over models, and over ensembles that "
            "combine by mean or vote. Set the thresholds as numbers"
        )


def calibration_key(cascade: Cascade, targets: Targets) -> str:
    """Return the key of a cascade's calibration in the store."""
    identities = [targets.identity(target.target) for target in cascade.targets]
    return sha256("\n".join(identities).encode()).hexdigest()


def calibrated_thresholds(
    cascade: Cascade, targets: Targets, store: str | None
) -> tuple[float, ...]:
    """Return the calibrated thresholds of a cascade; ConfigError if the store has none."""
    calibration = open_store(store).calibration(calibration_key(cascade, targets))
    names = ", ".join(target.target for target in cascade.targets)
    if calibration is None:
        raise ConfigError(
            f"route {cascade.name}: thresholds: calibrated, but the store has no calibration for "
            f"the current artifacts of {names}; run `headrace calibrate CONFIG {cascade.name} "
            "--agreement SHARE`, or set a number"
        )
    try:
        return Calibration.model_validate_json(calibration).thresholds
    except ValidationError as error:
        raise ConfigError(
            f"route {cascade.name}: its calibration in the store is unreadable; run "
            f"`headrace calibrate` again: {error}"
        ) from None
