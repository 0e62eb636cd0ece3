"""Models of Serve's details, deployed by a config or by ``serve.run``."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import ConfigError
from deployments.config.deployed import deployed_model
from deployments.ray.names import ARGS, ARTIFACT, STORE

ARGUMENTS = {"name": "digits", "artifact": "digits-int8"}
REFERENCE = f"digits-int8@{'ab' * 32}"
FACTS = {ARTIFACT: REFERENCE, STORE: "/models", ARGS: ARGUMENTS}


def entry(
    deployment: str | None = "model-digits",
    config: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return an application's entry in Serve's details."""
    deployments = {} if deployment is None else {deployment: {"deployment_config": {}}}
    for details in deployments.values():
        details["deployment_config"]["user_config"] = facts
    return {"name": "app", "deployed_app_config": config, "deployments": deployments}


@pytest.mark.parametrize("module", ["deployments.app", "headrace.serve"])
def test_configured_model_has_args_of_its_config(module: str) -> None:
    config = {"import_path": f"{module}:model", "args": ARGUMENTS}
    model = deployed_model(entry(config=config, facts=FACTS))
    assert model is not None
    assert (model.name, model.artifact, model.store) == ("digits", REFERENCE, "/models")
    pending = deployed_model(entry(None, config=config))
    assert pending is not None
    assert (pending.artifact, pending.store) == (None, None)


def test_artifact_of_earlier_args_is_not_the_model_s() -> None:
    other = {"import_path": "deployments.app:model", "args": ARGUMENTS | {"artifact": "other"}}
    model = deployed_model(entry(config=other, facts=FACTS))
    assert model is not None
    assert (model.artifact, model.store) == (None, None)


def test_model_of_serve_run_has_args_of_its_deployment() -> None:
    model = deployed_model(entry(facts=FACTS))
    assert model is not None
    assert (model.name, model.artifact, model.store) == ("digits", REFERENCE, "/models")


@pytest.mark.parametrize(
    "application",
    [
        entry("router"),
        entry("model-digits", facts={"theirs": 1}),
        entry("other", facts=FACTS),
        entry(None),
        entry(config={"import_path": "deployments.app:catalog"}),
        entry(config={"import_path": "mine:model", "args": ARGUMENTS}),
    ],
)
def test_other_applications_are_no_models(application: dict[str, Any]) -> None:
    assert deployed_model(application) is None


def test_wrong_args_name_the_application() -> None:
    config = {"import_path": "headrace.serve:model", "args": {"name": "digits"}}
    with pytest.raises(ConfigError, match="app: artifact: Field required"):
        deployed_model(entry(config=config))
