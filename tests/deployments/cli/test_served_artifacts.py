"""Served artifacts: a newer build is looked for in the store that the deployment found it in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.artifact.local import LocalStore
from deployments.cli.served import ServedArtifact, served_artifacts
from deployments.local.rest import Dashboard
from deployments.ray.names import ARGS, ARTIFACT, STORE

Publish = Callable[[Path, str], str]


class StubDashboard:
    """Dashboard of a cluster that serves one artifact as ``digits``."""

    def __init__(self, artifact_id: str, **args: Any) -> None:
        arguments = {"name": "digits", "artifact": "m", **args}
        self.facts: dict[str, Any] = {ARTIFACT: f"m@{artifact_id}", ARGS: arguments}
        self._config = {"import_path": "deployments.app:model", "args": arguments}

    def applications(self) -> dict[str, Any]:
        deployment = {"deployment_config": {"user_config": self.facts}}
        details = {"name": "digits", "deployed_app_config": self._config}
        return {"digits": {**details, "deployments": {"model-digits": deployment}}}


@pytest.fixture
def publish(finished: Callable[..., bytes]) -> Publish:
    """``publish(store, content)``: publish a build of the artifact ``m``, and return its id."""

    def put(root: Path, content: str) -> str:
        store = LocalStore(root)
        with store.building("a" * 64) as workspace:
            finished(workspace / "artifact", files={"weights.safetensors": content.encode()})
            return str(store.publish(workspace / "artifact").id)

    return put


def served(dashboard: StubDashboard) -> ServedArtifact:
    (model,) = served_artifacts(cast(Dashboard, dashboard))
    return model


def test_bound_store_decides_whether_name_has_moved_on(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound, of_shell = tmp_path / "bound", tmp_path / "shell"
    first = publish(bound, "first")
    shutil.copytree(bound, of_shell)
    publish(of_shell, "another")
    monkeypatch.setenv("HEADRACE_STORE", str(of_shell))
    dashboard = StubDashboard(first)  # a config that names no store
    dashboard.facts[STORE] = str(bound)
    model = served(dashboard)
    assert (model.store, model.newest_id, model.verdict) == (str(bound), first, "yes")

    second = publish(bound, "second")
    assert served(dashboard).moved_on
    assert served(dashboard).verdict == (
        f"no: the newest is {second[:12]}; run `headrace up CONFIG`"
    )


def test_verdict_is_unknown_without_the_bound_store(tmp_path: Path, publish: Publish) -> None:
    dashboard = StubDashboard("ab" * 32)
    dashboard.facts[STORE] = str(tmp_path / "on-another-machine")
    assert served(dashboard).verdict.startswith("unknown: ")
    # The same path on this machine, with other artifacts of the same name.
    publish(tmp_path / "on-another-machine", "not the served one")
    assert served(dashboard).verdict.startswith("unknown: ")
    assert not served(dashboard).moved_on


def test_store_of_an_earlier_release_is_its_config_s(tmp_path: Path, publish: Publish) -> None:
    first = publish(tmp_path, "first")
    model = served(StubDashboard(first, store=str(tmp_path)))
    assert (model.store, model.verdict) == (str(tmp_path), "yes")
