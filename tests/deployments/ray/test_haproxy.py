"""headrace-haproxy: its patches of Serve's configuration, and the HAProxy that it becomes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.common import RequestProtocol
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions, gRPCOptions
from support.http_client import Answer, Raw
from support.wait import until

from cluster.errors import ClusterError
from deployments.http import keys
from deployments.local import ports
from deployments.ray import haproxy

KEYS = {keys.VARIABLE: "clients: []"}
LOOPBACK = {haproxy.LOOPBACK_VARIABLE: "1"}
START_S = 3
"""Timeout of a request's headers and first buffer in these tests, in seconds."""


def serve_writes(directory: Path, port: int, replica_port: int = 1, **options: Any) -> str:
    """Return Serve's configuration for one application with one replica."""
    http_port, stats_port, metrics_port = port, *ports.free_ports(2)
    backends = {
        "app": BackendConfig(
            "app", "/app", app_name="app", servers=[_server(replica_port)], **TIMEOUTS
        )
    }
    backends |= options.pop("backends", {})
    config = HAProxyConfig(
        http_options=HTTPOptions(host=options.pop("host", "127.0.0.1"), port=http_port),
        grpc_options=options.pop("grpc_options", gRPCOptions()),
        is_head=True,
        has_received_routes=True,
        stats_port=stats_port,
        metrics_port=metrics_port,
        socket_path=str(directory / "admin.sock"),
        server_state_base=str(directory),
        server_state_file=str(directory / "state"),
        metrics_socket_path=str(directory / "metrics.sock"),
        enable_hap_optimization=False,
    )
    path = directory / "haproxy.cfg"
    asyncio.run(_generate(HAProxyApi(config, backends, str(path))))
    return path.read_text()


async def _generate(api: HAProxyApi) -> None:
    api._generate_config_file_internal()


TIMEOUTS = {"timeout_connect_s": 2, "timeout_client_s": 20, "timeout_server_s": 20}


def _server(port: int) -> ServerConfig:
    return ServerConfig("SERVE_REPLICA_app", "127.0.0.1", port)


def added(before: str, after: str) -> list[str]:
    """Return the lines of ``after`` that are not in ``before``, without indentation."""
    known = before.splitlines()
    return [line.strip() for line in after.splitlines() if line not in known]


def test_patch_adds_expected_lines(tmp_path: Path) -> None:
    config = serve_writes(tmp_path, 8000)
    mark, start, *errors, only_http1, wait = added(config, haproxy.patch(config, {}))
    assert mark.startswith("#")
    assert [line.split(" content-type")[0] for line in errors] == [
        "http-error status 502",
        "http-error status 503",
        "http-error status 504",
    ]
    assert start == f"timeout http-request {haproxy.REQUEST_START_S}s"
    assert only_http1 == "bind 127.0.0.1:8000 proto h1"
    assert wait.startswith(f"http-request wait-for-body time {haproxy.REQUEST_START_S}s if ")


@pytest.mark.parametrize("variable", haproxy.KEY_VARIABLES)
def test_patch_hides_routes_with_api_keys(tmp_path: Path, variable: str) -> None:
    config = serve_writes(tmp_path, 8000)
    more = added(haproxy.patch(config, {}), haproxy.patch(config, {variable: "x"}))
    assert [line.split(" content-type")[0] for line in more] == ["http-request return status 401"]


def test_key_variables_are_those_of_key_module() -> None:
    assert set(haproxy.KEY_VARIABLES) == {keys.VARIABLE, keys.FILE_VARIABLE}


def test_patch_binds_statistics_to_loopback(tmp_path: Path) -> None:
    config = serve_writes(tmp_path, 8000, host="0.0.0.0")
    binds = [line.strip() for line in haproxy.patch(config, LOOPBACK).splitlines()]
    addresses = [line.split()[1] for line in binds if line.startswith("bind ")]
    assert sorted(address.rpartition(":")[0] for address in addresses) == [
        "*",
        "127.0.0.1",
        "127.0.0.1",
    ]


def test_patch_leaves_patched_configuration_unchanged(tmp_path: Path) -> None:
    once = haproxy.patch(serve_writes(tmp_path, 8000), KEYS | LOOPBACK)
    assert haproxy.patch(once, KEYS | LOOPBACK) == once


def test_patch_covers_grpc_and_several_applications(tmp_path: Path) -> None:
    replicas = {"servers": [_server(1)], **TIMEOUTS}
    config = serve_writes(
        tmp_path,
        8000,
        backends={
            "second": BackendConfig("second", "/", **replicas),
            "calls": BackendConfig("calls", "/c", protocol=RequestProtocol.GRPC, **replicas),
        },
        grpc_options=gRPCOptions(port=9000, grpc_servicer_functions=["a.b"]),
    )
    assert haproxy.patch(config, {}).count("wait-for-body") == 3


@pytest.mark.parametrize(
    ("line", "instead", "missing"),
    [
        ("defaults\n", "defaults all\n", "'defaults' in 'defaults'"),
        ("frontend http_frontend", "frontend web", "in 'frontend http_frontend'"),
        ("    bind 127.0.0.1:8000", "    bind 127.0.0.1:8000 tfo", "in 'frontend http_frontend'"),
        (
            "    http-reuse always",
            "    http-reuse safe",
            "'    http-reuse always' in 'backend app'",
        ),
        ("    acl routes path -i /-/routes", "    acl r path /-/routes", "acl routes path"),
        ("  bind *:", "  bind 0.0.0.0:", "in 'listen stats'"),
        ("    bind :", "    bind *:", "in 'frontend prometheus'"),
    ],
)
def test_patch_rejects_configuration_without_expected_line(
    tmp_path: Path, line: str, instead: str, missing: str
) -> None:
    config = serve_writes(tmp_path, 8000)
    assert line in config
    with pytest.raises(ClusterError, match="does not know this configuration of HAProxy") as error:
        haproxy.patch(config.replace(line, instead), KEYS | LOOPBACK)
    assert missing in str(error.value)
    assert "install the release of Ray that Headrace requires" in str(error.value)


def test_program_reports_unknown_configuration(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("global\n")
    done = subprocess.run(
        [haproxy.PROGRAM, "-db", "-f", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("headrace-haproxy does not know this configuration of HAProxy")


def test_program_passes_version_and_check_to_haproxy(tmp_path: Path) -> None:
    serve_writes(tmp_path, ports.free_ports(1)[0])
    for arguments in (["-v"], ["-c", "-f", tmp_path / "haproxy.cfg"]):
        done = subprocess.run(
            [haproxy.PROGRAM, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done
        assert "HAProxy version" in done.stdout or "Configuration file is valid" in done.stdout


# ---------------------------------------------------------------------------- HAProxy itself


@dataclass
class Replica:
    """Replica behind HAProxy that answers after the headers, and records the requests.

    It closes the connection of a request with the header ``x-end``.
    """

    received: list[bytes] = field(default_factory=list)

    def answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while part := connection.recv(65536):
                self.received.append(part)
                if b"\r\nx-end: " in part:
                    return
                if b"\r\n\r\n" in part:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    @property
    def requests(self) -> bytes:
        """Received bytes without HAProxy's health checks."""
        return b"".join(part for part in self.received if b"/-/healthz" not in part)


@dataclass(frozen=True)
class Running:
    port: int
    replica: Replica
    server: socket.socket
    """Socket of the replica."""

    def ask(self, *parts: bytes, host: str = "127.0.0.1") -> Answer:
        with Raw(self.port, host=host) as raw:
            raw.send(*parts)
            return raw.answer()


def head(method: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} /app HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """Yield a HAProxy with API keys on every interface, with a replica behind it."""
    (port,) = ports.free_ports(1)
    replica = Replica()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server, replica), daemon=True).start()
        config = serve_writes(tmp_path, port, server.getsockname()[1], host="0.0.0.0")
        path = tmp_path / "haproxy.cfg"
        quick = haproxy.patch(config, KEYS | LOOPBACK)
        path.write_text(quick.replace(f" {haproxy.REQUEST_START_S}s", f" {START_S}s"))
        process = subprocess.Popen([haproxy.PROGRAM, "-db", "-f", path], stderr=subprocess.DEVNULL)
        try:
            haproxy_and_replica = Running(port, replica, server)
            _wait_until_up(haproxy_and_replica)
            yield haproxy_and_replica
        finally:
            process.kill()
            process.wait()


def _serve(server: socket.socket, replica: Replica) -> None:
    with contextlib.suppress(OSError):  # the end of the test closes it
        while True:
            connection, _ = server.accept()
            threading.Thread(target=replica.answer, args=(connection,), daemon=True).start()


def _wait_until_up(running: Running) -> None:
    until(lambda: running.ask(head("GET")).status == 200, passing=(OSError,))
    running.replica.received.clear()


def host_address() -> str:
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: the kernel says how it would
        except OSError:
            pytest.skip("this machine has no address but loopback's")
        return str(probe.getsockname()[0])


def test_routes_are_listed_on_loopback_only(running: Running) -> None:
    request = b"GET /-/routes HTTP/1.1\r\nHost: x\r\n\r\n"
    assert running.ask(request).json == {"/app": "app"}
    refused = running.ask(request, host=host_address())
    assert refused.status == 401
    assert refused.error.startswith("no list of routes for other machines")
    assert refused.headers["www-authenticate"] == "Bearer"
    health = b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    assert running.ask(health, host=host_address()).status == 200


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["Content-Length: 1000"], b"a"),
        (["Content-Length: 5000000"], b"a"),
        (["Content-Length: 0000000000", "Content-Length: 1000"], b"a"),
        (["Transfer-Encoding: chunked"], b"1\r\na\r\n"),
    ],
    ids=["short", "long", "two lengths", "chunked"],
)
def test_replica_gets_no_request_with_stalled_body(
    running: Running, lines: list[str], body: bytes
) -> None:
    answer = running.ask(head("POST", *lines), body)
    assert answer.status in (400, 408)
    assert running.replica.requests == b""


@pytest.mark.parametrize(
    "parts",
    [
        (head("POST", "Content-Length: 1000"), bytes(1000)),
        (head("POST", "Content-Length: 5000000"), bytes(haproxy.BUFFER_BYTES)),
        (head("POST", "Content-Length: 10000000000"),),
        (head("POST", "Transfer-Encoding: chunked"), b"1\r\na\r\n0\r\n\r\n"),
        (head("POST", "Transfer-Encoding: chunked"), b"20000\r\n" + bytes(0x20000)),
    ],
    ids=["short", "a buffer of a long one", "too long for all", "chunked", "a buffer of chunks"],
)
def test_replica_gets_request_with_complete_body_at_once(
    running: Running, parts: tuple[bytes, ...]
) -> None:
    started = time.monotonic()
    assert running.ask(*parts).status == 200
    assert time.monotonic() - started < START_S


def test_expect_continue_is_answered(running: Running) -> None:
    with Raw(running.port, timeout_s=5) as raw:
        raw.send(head("POST", "Content-Length: 5000000", "Expect: 100-continue"))
        assert raw.socket.recv(65536).startswith(b"HTTP/1.1 100 ")
        raw.send(bytes(haproxy.BUFFER_BYTES))
        assert raw.answer().status == 200


def test_haproxy_errors_are_json_with_status(running: Running) -> None:
    # Serve's own configuration answers both with a plain 500. On a connection that was used before,
    # HAProxy closes the client's without an answer, and a header of this kind ends the replica's.
    ended = until(lambda: _ask_and_end(running, 502))
    assert ended.error == "the replica ended before it answered; retry the request"
    running.server.shutdown(socket.SHUT_RDWR)  # the thread that accepts ends, and the port closes
    running.server.close()
    gone = until(lambda: _ask_and_end(running, 503))
    assert gone.error == "no replica is available; retry the request"
    assert gone.headers["retry-after"] == "1"


def _ask_and_end(running: Running, status: int) -> Answer | None:
    """Call a replica that closes the connection; return the answer if it has that status."""
    try:
        answer = running.ask(head("GET", "x-end: 1"))
    except (ConnectionError, HTTPException):
        return None
    return answer if answer.status == status else None


def test_http2_is_rejected(running: Running) -> None:
    with Raw(running.port, timeout_s=5) as raw:
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5))
        assert raw.answer().status == 400
    assert running.replica.requests == b""


# ---------------------------------------------------------------------------- its end

PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_haproxy_ends_with_its_parent(tmp_path: Path) -> None:
    (port,) = ports.free_ports(1)
    serve_writes(tmp_path, port)
    command = [str(haproxy.PROGRAM), "-db", "-f", str(tmp_path / "haproxy.cfg")]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *command], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        until(lambda: (ports.holder(port) or "").startswith("haproxy"))
    finally:
        parent.kill()
        parent.wait()
    until(lambda: ports.holder(port) is None, f"haproxy {child} goes on alone: not ended")


def test_haproxy_does_not_start_after_parent_has_ended() -> None:
    # The parent ends while Python starts; the child's parent is another process from then on.
    code = (
        "import os, sys, deployments.ray.haproxy as haproxy\n"
        "real, calls = os.getppid, []\n"
        "os.getppid = lambda: calls.append(1) or len(calls)\n"
        "haproxy.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-v"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "its parent process has ended" in done.stderr


def test_reload_lets_old_process_finish(tmp_path: Path) -> None:
    """Reload as Serve does: another process of the same parent takes over from the first."""
    (port,) = ports.free_ports(1)
    arrived = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def slow() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection:
                if b"/-/healthz" not in connection.recv(65536):
                    arrived.set()
                    time.sleep(1.5)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        threading.Thread(target=slow, daemon=True).start()
        serve_writes(tmp_path, port, server.getsockname()[1])
        command = [haproxy.PROGRAM, "-db", "-f", tmp_path / "haproxy.cfg"]
        processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL)]
        try:
            until(lambda: ports.holder(port) is not None)
            with Raw(port) as raw:
                raw.send(head("GET"))
                assert arrived.wait(10)
                again = [*command, "-sf", str(processes[0].pid)]
                processes.append(subprocess.Popen(again, stderr=subprocess.DEVNULL))
                assert raw.answer().status == 200
            assert processes[0].wait(timeout=10) == 0
            assert processes[1].poll() is None
        finally:
            for process in processes:
                process.kill()
                process.wait()
