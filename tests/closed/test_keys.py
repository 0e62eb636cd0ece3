"""Access with API keys, at every path and port of a cluster."""

from __future__ import annotations

import base64
import copy
import time
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton
import yaml
from client_keys import CLIENTS, KEYS
from support.http_client import ask
from support.listening import REPLICA, sockets
from support.wait import WITHIN_S, until
from tritonclient.utils import InferenceServerException

from cluster.errors import ClusterError
from deployments.http.headers import ROUTER_KEY
from deployments.http.keys import CHECK_INTERVAL_S

JSON = {"Content-Type": "application/json"}
REPLICA_PORTS = range(30000, 31000)
CLUSTER_PATHS = ["/v2", "/v2/models", "/openapi.json", "/v2/shadow/watched"]


def key(client: str) -> dict[str, str]:
    return {**JSON, "Authorization": f"Bearer {KEYS[client]}"}


@pytest.mark.parametrize("target", ["one", "cut", "mean", "nested"])
def test_models_and_routes_require_a_key(closed, body: bytes, target: str) -> None:
    url = f"{closed.models}/{target}/infer"
    assert ask(url, body, key("all")).status == 200
    assert ask(url, body, {**JSON, "x-api-key": KEYS["all"]}).status == 200
    for headers in (
        {},
        {"Authorization": "Bearer another"},
        {"Authorization": f"Basic {base64.b64encode(KEYS['all'].encode()).decode()}"},
        {"x-api-key": ""},
        {ROUTER_KEY: "0" * 64},
        {ROUTER_KEY: KEYS["all"]},
    ):
        answer = ask(url, body, {**JSON, **headers})
        assert answer.status == 401, headers
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "key" in answer.error


@pytest.mark.parametrize("path", CLUSTER_PATHS)
def test_cluster_paths_require_a_key(closed, path: str) -> None:
    assert ask(f"{closed.cluster.http}{path}").status == 401
    assert ask(f"{closed.cluster.http}{path}", headers=key("all")).status == 200


def test_preflight_of_named_origin_needs_no_key(closed, body: bytes) -> None:
    url = f"{closed.models}/one/infer"
    page = {"Origin": "https://app.example"}
    asked = {**page, "Access-Control-Request-Method": "POST"}
    assert ask(url, headers=asked, method="OPTIONS").status == 204
    assert (
        ask(url, headers={**asked, "Origin": "https://evil.example"}, method="OPTIONS").status
        == 401
    )
    refused = ask(url, body, {**JSON, **page})
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == page["Origin"]
    assert ask(url, body, {**key("all"), **page}).status == 200


def test_key_sees_and_counts_its_own_models(closed) -> None:
    for url, name in (("/v2/models", "models"), ("/v2/repository/index", None)):
        body = None if name else b""
        seen = ask(f"{closed.cluster.http}{url}", body, key("routes")).json
        assert [model["name"] for model in (seen[name] if name else seen)] == ["mean"]
        assert ask(f"{closed.cluster.http}{url}", body).status == 401
    assert ask(f"{closed.models}/one/stats", headers=key("routes")).status == 403
    assert ask(f"{closed.models}/nobody", headers=key("routes")).status == 403
    assert ask(f"{closed.models}/mean/stats", headers=key("routes")).status == 200


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_probes_need_no_key(closed, path: str) -> None:
    answer = ask(f"{closed.cluster.http}{path}")
    assert (answer.status, len(answer.json)) == (200, 1)  # no names in the answer


def test_replica_ports_require_a_key(closed) -> None:
    """Past HAProxy, as from another machine without a NetworkPolicy."""
    ports = [
        s.port
        for s in sockets(closed.cluster)
        if s.process.startswith(REPLICA) and s.port in REPLICA_PORTS
    ]
    for port in (*ports, closed.cluster.record.fallback_port):
        url = f"http://127.0.0.1:{port}"
        for path in ("/-/routes", "/-/routes/", "/v2", "/v2/models/one", "/v2/models/one/infer"):
            assert ask(f"{url}{path}").status == 401, (port, path)
        assert ask(f"{url}/-/healthz").status == 200
    assert len(ports) == 3


def test_proxy_of_serve_admits_keys_too(closed, body: bytes) -> None:
    """It answers while HAProxy has no replica, as after a start or at scale-from-zero."""
    url = f"http://127.0.0.1:{closed.cluster.record.fallback_port}/v2/models"
    for target in ("one", "mean"):
        assert ask(f"{url}/{target}/infer", body, key("all")).status == 200
    assert ask(f"{url}/one/infer", body, key("routes")).status == 403
    assert ask(f"{url}/one/infer", body, JSON).status == 401


def test_key_of_a_route_gives_no_access_to_its_models(closed, body: bytes) -> None:
    assert ask(f"{closed.models}/mean/infer", body, key("routes")).status == 200
    for other in ("one", "cut", "nested"):
        answer = ask(f"{closed.models}/{other}/infer", body, key("routes"))
        assert answer.status == 403
        assert answer.error == f"the key of routes gives no access to {other}"
    shadow = ask(f"{closed.cluster.http}/v2/shadow/watched", headers=key("routes"))
    assert shadow.status == 403


def test_quota_is_shared_by_all_models_and_routes(closed, body: bytes) -> None:
    targets = ["one", "mean", "cut", "one", "nested"]
    answers = [ask(f"{closed.models}/{target}/infer", body, key("slow")) for target in targets]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    for refused in answers[3:]:
        assert refused.error.startswith("slow may send 0.01 requests per second; retry after ")
        assert 1 <= int(refused.headers["retry-after"]) <= 100
    # Only inference counts against the quota.
    assert ask(f"{closed.models}/one", headers=key("slow")).status == 200


def test_triton_client_sends_its_key_as_a_header(closed) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{closed.cluster.record.http_port}")
    try:
        headers = {"Authorization": f"Bearer {KEYS['all']}"}
        assert client.is_model_ready("mean", headers=headers)
        assert client.get_model_metadata("mean", headers=headers)["name"] == "mean"
        with pytest.raises(InferenceServerException, match="requires an API key"):
            client.get_model_metadata("mean")
    finally:
        client.close()


def test_changed_key_file_applies_and_invalid_one_does_not(closed, body: bytes) -> None:
    url = f"{closed.models}/mean/infer"

    def status(api_key: str) -> int:
        return ask(url, body, {**JSON, "x-api-key": api_key}).status

    def wait_for(expected: int, api_key: str) -> None:
        until(lambda: status(api_key) == expected)

    def write(content: Any) -> None:
        closed.keys.write_text(content if isinstance(content, str) else yaml.safe_dump(content))

    new = {"name": "new", "key": "a-key-that-came-later"}
    try:
        write({"clients": [*CLIENTS, new]})
        wait_for(200, new["key"])
        write("clients: [")
        time.sleep(2 * CHECK_INTERVAL_S)
        assert status(new["key"]) == 200
        assert status("none") == 401
    finally:
        write({"clients": CLIENTS})
    wait_for(401, new["key"])
    assert status(KEYS["all"]) == 200


def test_invalid_key_file_stops_new_replicas(closed, body: bytes, tmp_path: Path) -> None:
    more = copy.deepcopy(closed.config)
    (one, *_) = more["applications"]
    another = copy.deepcopy(one) | {"name": "another", "route_prefix": "/v2/models/another"}
    another["args"]["name"] = "another"
    more["applications"].append(another)
    config, before = tmp_path / "more.yaml", tmp_path / "before.yaml"
    config.write_text(yaml.safe_dump(more))
    before.write_text(yaml.safe_dump(closed.config))
    try:
        closed.keys.write_text("clients: [{name: web, key: short}]")
        with pytest.raises(ClusterError, match=r"another(.|\n)*at least 16 characters") as error:
            closed.cluster.deploy(config, timeout_s=WITHIN_S)
        assert "short" not in str(error.value)
        answer = ask(f"{closed.models}/one/infer", body, key("all"))
        assert answer.status == 200
        assert ask(f"{closed.models}/another/infer", body, key("all")).status != 200
    finally:
        closed.keys.write_text(yaml.safe_dump({"clients": CLIENTS}))
        closed.cluster.deploy(before, timeout_s=WITHIN_S)


def test_model_at_another_route_prefix_is_refused(closed, tmp_path: Path) -> None:
    """Deployed by plain ``serve deploy``, which runs no check of ``headrace up``."""
    more = copy.deepcopy(closed.config)
    moved = copy.deepcopy(more["applications"][0]) | {"name": "moved", "route_prefix": "/digits"}
    moved["args"]["name"] = "moved"
    more["applications"].append(moved)
    config, before = tmp_path / "more.yaml", tmp_path / "before.yaml"
    config.write_text(yaml.safe_dump(more))
    before.write_text(yaml.safe_dump(closed.config))
    try:
        with pytest.raises(ClusterError, match="route_prefix is '/digits', expected '/v2/models/m"):
            closed.cluster.deploy(config, timeout_s=WITHIN_S)
        assert ask(f"{closed.cluster.http}/digits/infer", b"{}", key("all")).status != 200
    finally:
        closed.cluster.deploy(before, timeout_s=WITHIN_S)
