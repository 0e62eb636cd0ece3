"""Rolling upgrade of a local cluster: no request fails, even if HAProxy learns of it late."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support import serve_config
from support.cluster import running
from support.load import Load, request_body
from support.titles import replica_pid, replica_pids
from support.wait import WITHIN_S, until

from deployments.local.environment import PROXY_UPDATE_S
from deployments.ray.time_limits import PROXY_UPDATE_VARIABLE

LATE = {PROXY_UPDATE_VARIABLE: str(PROXY_UPDATE_S), "RAY_SERVE_HAPROXY_BROADCAST_COALESCE_S": "3"}
"""The product's time, and an HAProxy that reloads three seconds late, as on a busy machine."""


@pytest.mark.slow
@pytest.mark.cluster
def test_upgrade_of_only_replica_fails_no_request(
    bf16_artifact_store: Path, tmp_path: Path
) -> None:
    with running(tmp_path / "state", cpus=4, **LATE) as cluster:

        def deploy(artifact: str) -> None:
            application = serve_config.model("tiny", artifact, bf16_artifact_store)
            application["deployments"] = [{"name": "model-tiny", "max_surge_percent": 20}]
            cluster.deploy(serve_config.write(tmp_path, application), timeout_s=WITHIN_S)

        deploy("tiny-int8")
        old = replica_pid(cluster, "tiny")
        url = f"{cluster.http}/v2/models/tiny/infer"
        with Load(url, request_body((1, 16, 16)), clients=2) as load:
            deploy("tiny-bf16")
            until(lambda: old not in replica_pids(cluster, "tiny"), "the old replica goes on")
        assert replica_pid(cluster, "tiny") != old
    assert Counter(request.status for request in load.requests).keys() == {200}
