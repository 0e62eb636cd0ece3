"""Lifecycle of a RayService as its operator drives it: put, polled, refused, lost, put again."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
import yaml
from operator_calls import Operator
from support.http_client import ask

from deployments.local import LocalCluster, processes

URL = "http://127.0.0.1:8000/v2/models/tiny"


@pytest.mark.slow
@pytest.mark.fault("a config that Serve refuses")
def test_rendered_service_survives_a_refused_config(operator: Operator, serve_config: str) -> None:
    names = {application["name"] for application in yaml.safe_load(serve_config)["applications"]}
    assert operator.poll() == {}  # as on a new head

    assert operator.put(serve_config).status == 200
    operator.wait_until_running(names)
    assert ask(URL).status == 200
    before = _replica_ids(operator)

    wrong = yaml.safe_load(serve_config)
    del wrong["applications"][-1]["import_path"]
    refused = operator.put(yaml.safe_dump(wrong))
    assert refused.status == 400, refused
    assert b"import_path" in refused.body
    # The running replicas continue; a refused config restarts none.
    answer = ask(URL)
    assert answer.status == 200, answer
    assert _replica_ids(operator) == before

    # The operator puts the same config repeatedly: that restarts no replica.
    assert operator.put(serve_config).status == 200
    operator.wait_until_running(names)
    assert _replica_ids(operator) == before
    assert ask(URL).status == 200


@pytest.mark.slow
@pytest.mark.fault("a model that cannot be built, beside others")
def test_failed_application_is_in_status_and_others_run(
    operator: Operator, serve_config: str
) -> None:
    config = yaml.safe_load(serve_config)
    config["applications"].append(
        {
            "name": "missing",
            "route_prefix": "/v2/models/missing",
            "import_path": "deployments.app:model",
            "args": {"name": "missing", "artifact": "missing", "unknown_setting": 1},
        }
    )
    assert operator.put(yaml.safe_dump(config)).status == 200  # Serve notices only while it builds
    operator.wait(
        lambda status: (
            status.get("missing", {}).get("status") == "DEPLOY_FAILED"
            and status["tiny"]["status"] == "RUNNING"
        )
    )
    message = operator.poll()["missing"]["message"]
    assert "unknown_setting" in message
    assert "given: 1" in message
    assert ask(URL).status == 200


@pytest.mark.slow
@pytest.mark.fault("the head is lost without its storage")
def test_config_is_put_again_after_head_loss(operator: Operator, serve_config: str) -> None:
    names = {application["name"] for application in yaml.safe_load(serve_config)["applications"]}
    operator.put(serve_config)
    operator.wait_until_running(names)

    record = operator.cluster.record
    for process in processes.find(record.cluster_id, record.run_dir):
        with contextlib.suppress(ProcessLookupError):  # ended with an earlier one
            os.kill(process.pid, signal.SIGKILL)
    operator.cluster = LocalCluster.start(
        http_port=record.http_port,
        dashboard_port=record.dashboard_port,
        num_cpus=4,
        state_dir=record.state_dir,
    )
    assert operator.poll() == {}  # by which the operator detects a new head
    assert operator.put(serve_config).status == 200
    operator.wait_until_running(names)
    assert ask(URL).status == 200


def _replica_ids(operator: Operator) -> set[str]:
    return {
        replica["replica_id"]
        for application in operator.poll().values()
        for deployment in application["deployments"].values()
        for replica in deployment["replicas"]
    }
