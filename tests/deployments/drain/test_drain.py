"""``python -m deployments.drain`` without a cluster; see tests/nodes for real drains."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.serve._private.deployment_state import DeploymentState

from deployments.drain import __main__ as drain
from deployments.drain import attempt
from deployments.drain.attempt import AWAY, FAILED
from deployments.ray.time_limits import (
    DRAIN_START_S,
    DRAIN_START_VARIABLE,
    MAX_REQUEST_TIMEOUT_VARIABLE,
    node_drain_s,
    replica_stop_s,
)


def _drain(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "RAY_ADDRESS" not in name}
    return subprocess.run(
        [sys.executable, "-P", "-m", "deployments.drain"],
        env=environment | {"RAY_TMPDIR": str(tmp_path)} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_drain_without_ray_is_reported(tmp_path: Path) -> None:
    if subprocess.run(["pgrep", "-x", "raylet"], capture_output=True, check=False).returncode == 0:
        pytest.skip("another Ray runs on this machine, and would be used")
    done = _drain(tmp_path)
    assert done.returncode == 1
    assert "the node is not drained: Ray does not run here" in done.stderr


@pytest.mark.slow
def test_drain_waits_for_head_until_deadline(tmp_path: Path) -> None:
    started = time.monotonic()
    done = _drain(
        tmp_path,
        RAY_ADDRESS="127.0.0.1:9",  # no process listens there
        RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="1",
        **{MAX_REQUEST_TIMEOUT_VARIABLE: "1", DRAIN_START_VARIABLE: "4"},
    )
    assert done.returncode == 1
    assert "not drained after 6 s" in done.stderr, done
    assert 4 < time.monotonic() - started < 20  # with the time to report it


def test_drain_retries_after_lost_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python and Ray end an attempt with 1 when the head is lost."""
    ended = iter([1, AWAY, FAILED])
    monkeypatch.setattr(drain, "_RETRY_S", 0.01)
    monkeypatch.setattr(
        drain.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=next(ended))
    )
    assert drain.main() == 1
    assert list(ended) == []


def test_drain_rejects_invalid_time(tmp_path: Path) -> None:
    done = _drain(tmp_path, **{DRAIN_START_VARIABLE: "soon"})
    assert done.returncode == 1
    assert f"{DRAIN_START_VARIABLE}='soon' must be a positive number of seconds" in done.stderr


def test_remaining_replicas_and_shards_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = "SERVE_REPLICA::cut#model-cut#xk3f9a2b#stage-1.rank-0"
    alive = [
        SimpleNamespace(class_name=class_name, name=name)
        for class_name, name in [
            ("ServeReplica:tiny:model-tiny", "one"),
            ("ShardActor", shard),
            ("ServeReplica:tiny:model-tiny", "another"),
            ("ServeController", "SERVE_CONTROLLER_ACTOR"),
            (None, None),
        ]
    ]
    monkeypatch.setattr(attempt, "_actors", lambda node: alive)
    assert attempt._remaining("node") == f"2 of tiny's model-tiny, shard {shard}"
    alive = alive[3:]
    assert attempt._remaining("node") == ""


@pytest.mark.parametrize("longest", ["1", "60", "600"])
def test_serve_stops_replica_after_start_time_of_next(longest: str) -> None:
    """Serve compares the rest of the deadline with the time that the replica may take to stop."""
    environment = {MAX_REQUEST_TIMEOUT_VARIABLE: longest}
    replica = SimpleNamespace()
    serve = SimpleNamespace(
        _group_effective_deadline=lambda group, deadlines: deadlines["node"],
        _group_shutdown_timeout_ms=lambda group: replica_stop_s(environment) * 1e3,
    )

    def stopped(after_s: float) -> bool:
        deadline_ms = (time.time() + node_drain_s(environment) - after_s) * 1e3
        stop, _ = DeploymentState._partition_groups_to_stop(
            serve, [[replica]], {"node": deadline_ms}, 0
        )
        return bool(stop)

    assert not stopped(after_s=0)
    assert not stopped(after_s=DRAIN_START_S - 5)
    assert stopped(after_s=DRAIN_START_S + 5)
