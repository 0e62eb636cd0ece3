"""Errors of a router that cannot plan for a model's new artifact: clients see no internals."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.artifact.served import TRUSTED_KEYS
from cluster.config.base import parse
from cluster.config.routing import RouterArgs
from cluster.config.serving import ModelArgs
from deployments.config.deployed import DeployedModel
from deployments.router import replica
from deployments.router.call import NoAnswerError
from deployments.router.replica import RouterApp
from deployments.router.versions import Versions

ROUTES = [{"name": "both", "kind": "ensemble", "targets": ["one", "two"]}]


def replan_error(monkeypatch: pytest.MonkeyPatch, models: list[dict[str, Any]]) -> NoAnswerError:
    """Return the router's error after the first answer of another artifact of `one`."""
    monkeypatch.setattr(
        replica,
        "deployed_models",
        lambda: [DeployedModel(ModelArgs.model_validate(m)) for m in models],
    )
    plan: Any = SimpleNamespace(
        args=parse({"routes": ROUTES}, RouterArgs, "args"), models={}, thresholds={}
    )

    async def ask() -> None:
        await Versions({"one": "old"}, {}, RouterApp(plan)._replan, print).require("one", "new")

    with pytest.raises(NoAnswerError) as error:
        asyncio.run(ask())
    return error.value


def missing(store: Path) -> list[dict[str, Any]]:
    fields = {"artifact": "secret-artifact", "store": str(store)}
    return [{"name": "one", **fields}, {"name": "two", **fields}]


def unsigned(store: Path) -> list[dict[str, Any]]:
    signed = {"artifact": "tiny-int8", "store": str(store), "require_signature": True}
    return [{"name": "one", **signed}, {"name": "two", **signed}]


def undeployed(store: Path) -> list[dict[str, Any]]:
    fields = {"artifact": "tiny-int8", "store": str(store)}
    return [{"name": "one", **fields}, {"name": "of-another-client", **fields}]


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize("models", [missing, unsigned, undeployed])
def test_replan_error_shows_no_path_and_no_other_model(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    int8_artifact_store: Path,
    models: Any,
    keys: bool,
) -> None:
    monkeypatch.delenv(TRUSTED_KEYS, raising=False)
    if keys:
        monkeypatch.setenv(TRUSTED_KEYS, str(tmp_path / "keys"))
    store = tmp_path if models is missing else int8_artifact_store
    error = replan_error(monkeypatch, models(store))
    assert error.http_status == 503
    assert str(error) == (
        "one serves a new artifact: the routes cannot use it, for the reason in the router's log; "
        "deploy the router again"
    )
    (logged,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    details = {
        missing: "secret-artifact",
        unsigned: TRUSTED_KEYS,
        undeployed: "of-another-client",
    }
    if models is unsigned and keys:
        details[unsigned] = str(tmp_path / "keys")
    assert details[models] in logged
