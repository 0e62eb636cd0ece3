"""Settings of deployments that matter for long requests, or for nodes with a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray
from ray.serve._private import constants

from cluster.config.serving import ModelArgs
from deployments import app
from deployments.ray.time_limits import MAX_REQUEST_TIMEOUT_VARIABLE
from deployments.shards import placement


def test_stopping_replica_has_time_for_longest_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(MAX_REQUEST_TIMEOUT_VARIABLE, "100")
    bound = app.catalog({})._bound_deployment
    drain_s = constants.RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S
    assert bound._deployment_config.graceful_shutdown_timeout_s == drain_s + 100 > 30


@pytest.mark.parametrize(
    ("target", "resources"), [("cpu-x86", {"CPU": 2.0}), ("cuda-sm90", {"CPU": 0.0, "GPU": 2.0})]
)
def test_head_group_has_no_devices(
    monkeypatch: pytest.MonkeyPatch, target: str, resources: dict[str, float]
) -> None:
    def node(group: str | None, *, alive: bool = True) -> dict[str, object]:
        labels = {} if group is None else {"ray.io/node-group": group}
        return {"Alive": alive, "Labels": labels, "Resources": resources}

    nodes = [node("headgroup"), node("workers"), node(None), node("workers", alive=False)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    manifest = SimpleNamespace(programs=[SimpleNamespace(target=target)])
    args = ModelArgs(name="m", artifact="m")

    devices = placement._devices(args, manifest)  # type: ignore[arg-type]

    assert [device.target for device in devices] == [target] * 4
    assert {device.node for device in devices} == {0, 1}


def test_another_artifact_is_another_actor_option() -> None:
    """Serve replaces replicas whose options differ, and compares nothing else of a model."""
    bound = [SimpleNamespace(artifact_id=digit * 64) for digit in "ab"]
    first, second = (placement.nodes_for(model) for model in bound)  # type: ignore[arg-type]
    assert first != second
    assert all(value.startswith("!") for value in (*first.values(), *second.values()))
