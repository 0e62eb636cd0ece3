"""Real local cluster: start, deployment, requests through HAProxy, failures, stop."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.cluster import start
from support.http_client import Answer, Raw, ask
from support.listening import assert_only_replicas_listen_beyond_loopback, listening, sockets
from support.serve_config import write as write_config
from support.shared_memory import orphans
from support.wait import until

from cluster.errors import ClusterError, ConfigError
from deployments.local import LocalCluster, ports, processes
from deployments.ray.haproxy import REQUEST_START_S
from deployments.ray.time_limits import MAX_REQUEST_TIMEOUT_VARIABLE

APPLICATION = """
import asyncio
from ray import serve

@serve.deployment
class Length:
    async def __call__(self, request):
        body = await request.body()
        if body == b"fail":
            raise RuntimeError("a secret in /some/path")
        if body == b"sleep":
            await asyncio.sleep(30)
        return {"bytes": len(body)}

@serve.deployment
class Broken:
    def __init__(self):
        raise ValueError("no such weights")

def length(args):
    return Length.bind()

def broken(args):
    return Broken.options(max_constructor_retry_count=1).bind()
"""
LENGTH = {
    "name": "length",
    "route_prefix": "/length",
    "import_path": "cluster_test_application:length",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set the environment of this file's clusters: the test application, and a short deadline."""
    directory = tmp_path_factory.mktemp("application")
    (directory / "cluster_test_application.py").write_text(APPLICATION)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(directory))
        patch.setenv(MAX_REQUEST_TIMEOUT_VARIABLE, "1")
        yield


@pytest.fixture(scope="module")
def cluster(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    directory = tmp_path_factory.mktemp("shared")
    started = start(directory / "state", cpus=2)
    try:
        started.deploy(write_config(directory, LENGTH))
        yield started
    finally:
        started.stop()


def post(url: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def send_raw(cluster: LocalCluster, header: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", cluster.record.http_port), timeout=10) as raw:
        raw.sendall(b"GET /length HTTP/1.1\r\nHost: x\r\n" + header)
        raw.sendall(b"\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: raw.recv(65536), b""))


def members(cluster: LocalCluster) -> list[processes.Process]:
    return processes.find(cluster.record.cluster_id, cluster.record.run_dir)


def pid_of(cluster: LocalCluster, name: str) -> int:
    return next(p.pid for p in members(cluster) if p.name.startswith(name))


def assert_nothing_left(cluster: LocalCluster, before: set[Path]) -> None:
    assert members(cluster) == []
    assert [port for port in cluster.record.ports if ports.holder(port) is not None] == []
    assert not cluster.record.run_dir.exists()
    assert not cluster.record.token_path.exists()
    assert orphans() <= before
    assert LocalCluster.running(cluster.record.state_dir) is None


def test_deployed_application_answers_through_haproxy(cluster: LocalCluster) -> None:
    status, _, body = post(f"{cluster.http}/length", b"12345")
    assert (status, json.loads(body)) == (200, {"bytes": 5})
    holder = ports.holder(cluster.record.http_port)
    assert holder is not None
    assert holder.startswith("haproxy (pid ")


def test_dashboard_requires_token(cluster: LocalCluster) -> None:
    assert stat.S_IMODE(cluster.record.token_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cluster.record.run_dir.stat().st_mode) == 0o700

    token = cluster.record.token_path.read_text()
    url = f"{cluster.dashboard}/api/serve/applications/"
    assert ask(url).status == 401
    assert ask(url, headers={"Authorization": f"Bearer {token[::-1]}"}).status == 403
    assert ask(url, headers={"Authorization": f"Bearer {token}"}).status == 200


def ask_dashboard(
    cluster: LocalCluster, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{cluster.dashboard}{path}", data=data, method=method)
    for name, value in ({"Content-Type": "application/json"} | headers).items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_deploy_and_delete_require_token(cluster: LocalCluster) -> None:
    token = cluster.record.token_path.read_text()
    applications = "/api/serve/applications/"
    config = {"applications": [LENGTH | {"name": "other", "route_prefix": "/other"}]}

    def deployed() -> set[str]:
        answer = ask_dashboard(cluster, "GET", applications, Authorization=f"Bearer {token}")
        return set(json.loads(answer[1])["applications"])

    assert deployed() == {"length"}
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {token[::-1]}"}, 403)):
        for method, body in (("PUT", config), ("DELETE", None)):
            assert ask_dashboard(cluster, method, applications, body, **headers)[0] == status
    time.sleep(1)  # Serve would have begun by now
    assert deployed() == {"length"}
    assert post(f"{cluster.http}/length", b"1")[0] == 200


def test_agents_require_token(cluster: LocalCluster, tmp_path: Path) -> None:
    """Of the dashboard, which starts jobs, and of runtime environments, which installs packages."""
    (runtime,) = [s.port for s in sockets(cluster) if s.process == "ray::RuntimeEnvAgent"]
    token = cluster.record.token_path.read_text()
    job = json.dumps({"entrypoint": f"touch {tmp_path / 'ran'}"}).encode()
    for port, path in (
        (cluster.record.agent_port, "/api/job_agent/jobs/"),
        (cluster.record.agent_port, "/api/job_agent/jobs/any/stop"),
        (runtime, "/get_or_create_runtime_env"),
        (runtime, "/delete_runtime_env_if_possible"),
    ):
        url = f"http://127.0.0.1:{port}{path}"
        assert ask(url, job).status == 401, path
        assert ask(url, job, {"Authorization": f"Bearer {token[::-1]}"}).status == 403, path
    assert not (tmp_path / "ran").exists()


def test_job_submission_requires_token(cluster: LocalCluster, tmp_path: Path) -> None:
    token = cluster.record.token_path.read_text()
    job = {"entrypoint": f"touch {tmp_path / 'ran'}"}
    for headers, status in (
        ({}, 401),
        ({"Authorization": f"Bearer {token[::-1]}"}, 403),
        ({"x_ray_authorization": f"Bearer {token[::-1]}"}, 403),
        ({"Authorization": "Bearer "}, 403),
        ({"Authorization": token}, 403),
    ):
        assert ask_dashboard(cluster, "POST", "/api/jobs/", job, **headers)[0] == status, headers
    known = ask_dashboard(cluster, "GET", "/api/jobs/", Authorization=f"Bearer {token}")
    assert known == (200, "[]")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "sent_by_a_browser",
    [
        {"Origin": "http://elsewhere.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"User_Agent": "Mozilla/5.0"},
    ],
)
def test_browser_of_other_origin_is_rejected_with_token(
    cluster: LocalCluster, sent_by_a_browser: dict[str, str]
) -> None:
    token = cluster.record.token_path.read_text()
    applications = "/api/serve/applications/"
    for login in (
        {"Authorization": f"Bearer {token}"},
        {"Cookie": f"ray-authentication-token={token}"},
    ):
        for method, path, body in (
            ("DELETE", applications, None),
            ("PUT", applications, {"applications": []}),
            ("POST", "/api/jobs/", {"entrypoint": "true"}),
        ):
            headers = login | sent_by_a_browser
            assert ask_dashboard(cluster, method, path, body, **headers)[0] == 405
    assert post(f"{cluster.http}/length", b"1")[0] == 200


def test_rebound_host_name_is_rejected(cluster: LocalCluster) -> None:
    # A page from there has no cookie for that name, and cannot read the token file.
    for method in ("GET", "DELETE"):
        answer = ask_dashboard(
            cluster, method, "/api/serve/applications/", Host="rebound.example:8265"
        )
        assert answer == (401, "Unauthorized: Missing authentication token")


def test_only_replica_ports_listen_beyond_loopback(cluster: LocalCluster) -> None:
    listening_sockets = sockets(cluster)
    open_ports = {socket.port for socket in listening_sockets}
    expected = {"http", "dashboard", "gcs", "agent", "client", "stats", "metrics", "fallback"}
    missing = {p: name for p, name in cluster.record.ports.items() if p not in open_ports}
    assert not missing
    assert set(cluster.record.ports.values()) == expected
    assert len(listening_sockets) > 15  # Ray's own, too
    # Its one port asks for the token before it reads anything: the test below.
    assert assert_only_replicas_listen_beyond_loopback(cluster) == [
        pid_of(cluster, "ray::ServeRepli")
    ]


PICKLE = """
import os, pickle, sys
import grpc
from ray.serve.generated.serve_pb2 import ASGIRequest
from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub

class Touch:
    def __reduce__(self):
        return os.system, (f"touch {sys.argv[2]}",)

code = pickle.dumps(Touch())
channel = grpc.insecure_channel(sys.argv[1])
metadata = [("authorization", sys.argv[3])] if sys.argv[3] else []
try:
    ASGIServiceStub(channel).HandleRequest(
        ASGIRequest(pickled_request_metadata=code, request_args=code), metadata=metadata, timeout=10
    )
except grpc.RpcError as error:
    print(error.code().name)
"""


@pytest.mark.parametrize(("token", "runs"), [("", False), ("wrong", False), ("right", True)])
def test_pickle_to_replica_requires_token(
    cluster: LocalCluster, tmp_path: Path, token: str, runs: bool
) -> None:
    sockets_of_replica = listening(pid_of(cluster, "ray::ServeRepli"))
    (port,) = [port for loopback, port in sockets_of_replica if not loopback]
    right = cluster.record.token_path.read_text()
    value = {"": "", "wrong": f"Bearer {right[::-1]}", "right": f"Bearer {right}"}[token]
    result = subprocess.run(
        [sys.executable, "-c", PICKLE, f"127.0.0.1:{port}", str(tmp_path / "ran"), value],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # The right one shows that the question was well put, and what a token is worth.
    assert (tmp_path / "ran").exists() == runs, result
    if not runs:
        assert result.stdout.strip() == "UNAUTHENTICATED", result
    assert post(f"{cluster.http}/length", b"1")[0] == 200


def dripping(port: int, start: bytes, drop: bytes) -> tuple[Answer, float]:
    """Return the answer to an endless, slow request, and the time until the answer."""
    with Raw(port) as raw:
        raw.send(b"POST /length HTTP/1.1\r\nHost: x\r\n" + start)
        started = time.monotonic()
        while time.monotonic() - started < 3 * REQUEST_START_S:
            if select.select([raw.socket], [], [], 0.5)[0]:
                break
            raw.send(drop)  # never silent for long
        return raw.answer(), time.monotonic() - started


@pytest.mark.slow
def test_client_that_never_ends_its_request_gets_408(cluster: LocalCluster) -> None:
    requests = [
        (b"X-Slow: ", b"a"),
        (b"Content-Length: 1000\r\n\r\n", b"a"),
        (b"Content-Length: 10000000\r\n\r\n", b"a"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ]
    with ThreadPoolExecutor(len(requests)) as pool:
        sent = [pool.submit(dripping, cluster.record.http_port, *request) for request in requests]
        for future in sent:
            answer, seconds = future.result()
            assert answer.status == 408
            assert REQUEST_START_S - 1 < seconds < REQUEST_START_S + 2
            # HAProxy's own: the replica, whose deadline here is a second, has heard of none.
            assert b"Your browser didn't send a complete request in time" in answer.body


def test_driver_connects_with_client_environment(cluster: LocalCluster) -> None:
    script = "import ray; ray.init(log_to_driver=False); print(ray.cluster_resources()['CPU'])"
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **cluster.environment()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout.strip() == "2.0", result.stderr


def test_running_cluster_is_not_started_again(cluster: LocalCluster) -> None:
    state_dir = cluster.record.state_dir
    assert LocalCluster.running(state_dir) == cluster
    with pytest.raises(ClusterError, match=f"runs already, at {cluster.http}"):
        LocalCluster.start(state_dir=state_dir)


def test_start_names_holder_of_busy_port(cluster: LocalCluster, tmp_path: Path) -> None:
    port = cluster.record.http_port
    with pytest.raises(ClusterError, match=rf"port {port} \(HTTP\) is not free: haproxy \(pid"):
        LocalCluster.start(http_port=port, state_dir=tmp_path)
    assert not (tmp_path / "cluster.json").exists()


def test_deploy_reports_reason_of_failed_application(cluster: LocalCluster, tmp_path: Path) -> None:
    broken = {
        "name": "broken",
        "route_prefix": "/broken",
        "import_path": "cluster_test_application:broken",
    }
    with pytest.raises(ClusterError, match=r"(?s)'broken' failed:.*no such weights"):
        cluster.deploy(write_config(tmp_path, LENGTH, broken))
    assert post(f"{cluster.http}/length", b"1")[0] == 200


def test_deploy_rejects_invalid_config(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: applications: expected a list"):
        cluster.deploy(tmp_path / "list.yaml")
    with pytest.raises(ClusterError, match="import_path"):
        cluster.deploy(write_config(tmp_path, {"name": "nothing", "route_prefix": "/nothing"}))


def test_guard_rejects_header_that_serve_cannot_decode(cluster: LocalCluster) -> None:
    for name in (b"x-request-id", b"x-note", b"x-request-timeout-seconds"):
        head, _, body = send_raw(cluster, name + b": \xff\xfe").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"].startswith(f"header '{name.decode()}' is not valid UTF-8")
    # A header's name does not get past HAProxy.
    assert send_raw(cluster, b"x-n\xffte: 1").startswith(b"HTTP/1.1 400 Bad request")


def test_client_cannot_disable_deadline(cluster: LocalCluster) -> None:
    for timeout in ("0", "inf"):
        started = time.monotonic()
        status, _, body = post(
            f"{cluster.http}/length", b"sleep", **{"x-request-timeout-seconds": timeout}
        )
        assert status == 408
        assert 0.9 < time.monotonic() - started < 15
        assert "within its deadline of 1 s" in json.loads(body)["error"]


def test_failure_shows_only_request_id(cluster: LocalCluster) -> None:
    status, headers, body = post(f"{cluster.http}/length", b"fail", **{"X-Request-ID": "r-17"})
    assert status == 500
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {
        "error": "the server failed to answer request r-17; its log has the reason"
    }


@pytest.mark.slow
@pytest.mark.fault("a raylet is killed alone")
def test_haproxy_ends_with_its_proxy_actor(environment: None, tmp_path: Path) -> None:
    before = orphans()
    cluster = start(tmp_path / "state", cpus=2)
    try:
        cluster.deploy(write_config(tmp_path, LENGTH))
        # Each change of what is deployed starts another one, by which the first is replaced.
        cluster.deploy(write_config(tmp_path, LENGTH, LENGTH | {"name": "b", "route_prefix": "/b"}))
        assert post(f"{cluster.http}/b", b"1")[0] == 200
        os.kill(pid_of(cluster, "raylet"), signal.SIGKILL)  # Ray's workers end when it does
        until(
            lambda: not any(process.name == "haproxy" for process in members(cluster)),
            "HAProxy goes on alone: not ended",
        )
        assert ports.holder(cluster.record.http_port) is None
        assert LocalCluster.running(cluster.record.state_dir) is None
    finally:
        assert LocalCluster.stop_recorded(cluster.record.state_dir)
    assert_nothing_left(cluster, before)


@pytest.mark.slow
@pytest.mark.fault("the cluster of `headrace up` loses its GCS")
def test_stop_ends_broken_cluster(environment: None, tmp_path: Path) -> None:
    before = orphans()
    cluster = start(tmp_path / "state", cpus=2)
    try:
        cluster.deploy(write_config(tmp_path, LENGTH))
        for name in ("raylet", "gcs_server"):
            os.kill(pid_of(cluster, name), signal.SIGKILL)
        assert members(cluster)
        assert LocalCluster.running(cluster.record.state_dir) is None
    finally:
        assert LocalCluster.stop_recorded(cluster.record.state_dir)
    assert_nothing_left(cluster, before)


@pytest.mark.cluster
@pytest.mark.fault("`headrace up` is killed while it starts")
def test_stop_removes_remains_of_killed_start(environment: None, tmp_path: Path) -> None:
    http_port, dashboard_port = ports.free_ports(2)
    script = f"""
from pathlib import Path
from deployments.ray.haproxy import REQUEST_START_S
from deployments.local import LocalCluster
LocalCluster.start(
    http_port={http_port}, dashboard_port={dashboard_port}, state_dir=Path({str(tmp_path)!r})
)
"""
    before = orphans()
    starting = subprocess.Popen([sys.executable, "-c", script])
    try:
        until(lambda: ports.holder(dashboard_port) is not None)
    finally:
        starting.kill()
        starting.wait()
    from_record = json.loads((tmp_path / "cluster.json").read_text())
    run_dir = Path(from_record["run_dir"])
    assert processes.find(from_record["cluster_id"], run_dir)
    assert LocalCluster.stop_recorded(tmp_path)
    assert processes.find(from_record["cluster_id"], run_dir) == []
    assert ports.holder(dashboard_port) is None
    assert not run_dir.exists()
    assert orphans() <= before
    assert not LocalCluster.stop_recorded(tmp_path)


def test_stop_leaves_no_process_file_or_port(cluster: LocalCluster) -> None:
    # Last in the file: the other tests share this cluster.
    before = orphans()
    assert members(cluster)
    cluster.stop()
    assert_nothing_left(cluster, before)
    cluster.stop()  # a second stop has nothing to do
