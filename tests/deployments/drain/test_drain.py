"""``python -m deployments.drain`` without a cluster to drain; else see tests/nodes."""

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
from deployments.drain.attempt import AWAY, ENDED
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


def test_where_no_ray_runs_it_says_so(tmp_path: Path) -> None:
    if subprocess.run(["pgrep", "-x", "raylet"], capture_output=True, check=False).returncode == 0:
        pytest.skip("another Ray runs on this machine, and would be found")
    done = _drain(tmp_path)
    assert done.returncode == 1
    assert "nothing is drained: no node of Ray's runs here" in done.stderr


@pytest.mark.slow
def test_a_head_that_never_answers_is_waited_for_as_long_as_was_said(tmp_path: Path) -> None:
    started = time.monotonic()
    done = _drain(
        tmp_path,
        RAY_ADDRESS="127.0.0.1:9",  # nobody listens there
        RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="1",
        **{MAX_REQUEST_TIMEOUT_VARIABLE: "1", DRAIN_START_VARIABLE: "4"},
    )
    assert done.returncode == 1
    assert "given up after 6 s" in done.stderr, done
    assert 4 < time.monotonic() - started < 20  # a few seconds more, in which it says so


def test_a_lost_head_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python and Ray end an attempt with 1 when the head is lost."""
    ended = iter([1, AWAY, ENDED])
    monkeypatch.setattr(drain, "_RETRY_S", 0.01)
    monkeypatch.setattr(
        drain.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=next(ended))
    )
    assert drain.main() == 1
    assert list(ended) == []


def test_a_time_that_is_no_number_is_refused(tmp_path: Path) -> None:
    done = _drain(tmp_path, **{DRAIN_START_VARIABLE: "soon"})
    assert done.returncode == 1
    assert f"{DRAIN_START_VARIABLE}='soon' must be a positive number of seconds" in done.stderr


def test_replicas_and_shards_that_are_left_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert attempt._left("node") == f"2 of tiny's model-tiny, shard {shard}"
    alive = alive[3:]
    assert attempt._left("node") == ""


@pytest.mark.parametrize("longest", ["1", "60", "600"])
def test_serve_leaves_a_replica_alone_until_another_had_time_to_start(longest: str) -> None:
    """Serve's own decision: what is left of the deadline, against what the replica may take."""
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
