"""Ray on several hosts: a head without CPUs, and nodes; each is one `ray start`.

    Nodes ── Network ─┬ client: drives and sends requests
                      ├ head: `ray start --head`, storage in a directory
                      └ node, node, ...: `ray start --address`

A node has its own namespaces for processes, mounts and network, as a machine does, and so its own
temporary files and shared memory. Killing its first process ends all its processes at once.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from network import Host, Network
from support.leftovers import Process, read_process

from cluster.errors import ClusterError
from deployments.local import rest
from deployments.ray.environment import network_environment, serving_environment

GCS_PORT, DASHBOARD_PORT, HTTP_PORT = 6379, 8265, 8000

_NODE_FILES = Path("/mnt")
"""Directory of a node's files; short, because a socket's path may have about 100 bytes."""

NODE_BACK_S = 15
"""Goal in seconds: all replicas run again this long after the loss of a node."""

_START_S = 270
"""Bound in seconds for the start of a head or a node: three times the slowest known machine. One
that has ended is restarted at once."""

_KILLED_S = 30
_MOST_STARTS = 8
"""Bound for starts of the head in all tests together; each test may kill it once."""
_POLL_S = 0.25


@dataclass
class Node:
    """Process `ray start --block` on a host."""

    host: Host
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """End every process of the node at once. The kernel resets its connections."""
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + _KILLED_S
        while pids := self.host.processes:  # the kernel ends a namespace after its first process
            assert time.monotonic() < deadline, f"{self.host.address} still runs {pids}"
            time.sleep(0.02)

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def log_end(self) -> str:
        return self.log.read_text()[-600:]


@dataclass
class Nodes:
    """Context manager of the cluster."""

    directory: Path

    def __enter__(self) -> Nodes:
        self.network = Network().__enter__()
        self.nodes: list[Node] = []
        self.token_path = self.directory / "token"
        with os.fdopen(os.open(self.token_path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        try:
            self.client = self.network.add()
            self.head_host = self.network.add()
            self.first_head_start_s = self.start_head()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as after:  # runs each one, also after errors
            after.callback(self.network.__exit__)
            after.callback(self._require_ended, self.client)
            for node in self.nodes:
                after.callback(node.kill)

    def _require_ended(self, host: Host) -> None:
        assert not host.processes, f"processes still run on {host.address}: {host.processes}"

    # ------------------------------------------------------------------------------- the nodes

    def start_head(self) -> float:
        """Start the head from its storage; return the seconds until it answers."""
        self._launch_head()
        return self.wait(self._head_answers, "the dashboard does not answer", _START_S)

    def _head_answers(self) -> bool:
        self.keep_head()
        return self.client.call(self.dashboard.is_reached)

    def keep_head(self) -> None:
        """Restart the head if it has ended by itself, as Kubernetes would."""
        if not self.head.runs:
            assert self.head_starts < _MOST_STARTS, f"the head ends repeatedly: {self.head.log_end}"
            self._launch_head()

    def _launch_head(self) -> None:
        storage = self.directory / "gcs"
        storage.mkdir(exist_ok=True)
        self.head = self._start(
            self.head_host,
            *("--head", f"--port={GCS_PORT}", "--dashboard-host=0.0.0.0", "--num-cpus=0"),
            f"--temp-dir={_NODE_FILES / 'ray'}",
            "--labels=ray.io/node-group=headgroup",
            RAY_gcs_storage="rocksdb",
            RAY_gcs_storage_path=str(storage),
        )

    def add(self, cpus: int = 10) -> Node:
        """Start a node on a new host, and wait until the head knows it."""
        host = self.network.add()
        node = self._start_node(host, cpus)

        def joined() -> bool:
            nonlocal node
            if not node.runs:  # Ray ends a node whose agent needs over 15 s to start
                node = self._start_node(host, cpus)
            return host.address in self.alive()

        self.wait(joined, "the node does not join", _START_S)
        return node

    def _start_node(self, host: Host, cpus: int) -> Node:
        return self._start(
            host, f"--address={self.head_host.address}:{GCS_PORT}", f"--num-cpus={cpus}"
        )

    def alive(self) -> list[str]:
        """Return the addresses of the nodes that the head lists as alive, without the head."""
        rows = self.listed("nodes")
        return [r["node_ip"] for r in rows if r["state"] == "ALIVE" and not r["is_head_node"]]

    def listed(self, kind: str) -> list[dict[str, Any]]:
        """Return rows of Ray's state API: ``nodes``, ``actors`` or ``placement_groups``."""
        answer = self.ask_head(f"/api/v0/{kind}?limit=10000&detail=1")
        rows: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return rows

    def processes(self) -> list[Process]:
        """Return all processes on the hosts, except the client's."""
        hosts = {node.host.name: node.host for node in self.nodes}.values()
        running = [read_process(pid, host.address) for host in hosts for pid in host.processes]
        return [process for process in running if process is not None]

    @property
    def head_starts(self) -> int:
        """Number of starts of the head, including those by :meth:`keep_head`."""
        return sum(node.host is self.head_host for node in self.nodes)

    @property
    def running(self) -> list[Node]:
        """Running nodes, without the head."""
        return [node for node in self.nodes if node.runs and node.host is not self.head_host]

    def node_at(self, address: str) -> Node:
        return next(node for node in self.running if node.host.address == address)

    def run_on(self, node: Node, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a node, among its processes and with its files."""
        first = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text()
        inside = ["nsenter", f"--target={first.strip()}", "--net", "--mount", "--pid"]
        return subprocess.run(
            [*inside, *command],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def _start(self, host: Host, *arguments: str, **variables: str) -> Node:
        files = self.directory / host.name
        for name in ("ray", "tmp", "haproxy"):
            (files / name).mkdir(parents=True, exist_ok=True)
        log = files / f"start-{len(self.nodes)}.log"
        mounts = f'mount --bind {files} {_NODE_FILES} && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        # The node ends with this process, also when it is killed.
        command = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", host.name]
        command += ["unshare", "-mpf", "--kill-child", "--mount-proc"]
        command += ["sh", "-c", mounts, "node"]
        command += [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block"]
        command += [f"--node-ip-address={host.address}", "--disable-usage-stats"]
        command += ["--object-store-memory=100000000", "--log-style=record", *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=self._environment() | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node = Node(host, process, log)
        self.nodes.append(node)
        return node

    def _environment(self) -> dict[str, str]:
        haproxy = _NODE_FILES / "haproxy"
        common = serving_environment() | network_environment()
        return (
            os.environ
            | common
            | {
                "TMPDIR": str(_NODE_FILES / "tmp"),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(self.token_path),
                "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
                "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
                "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
                "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
                "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
                # Every node's HAProxy reloads without the replica in this time; Serve's default of
                # 30 s is always waited out. A later HAProxy finds the port closed, waits a second
                # and tries one other replica; if that has ended too, it answers with 503.
                "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",
            }
        )

    # -------------------------------------------------------------------------------- the head

    @property
    def dashboard(self) -> rest.Dashboard:
        return rest.Dashboard(f"http://{self.head_host.address}:{DASHBOARD_PORT}", self.token_path)

    def ask_head(self, path: str) -> Any:
        """Return the JSON with which the dashboard answers a GET."""
        request = urllib.request.Request(self.dashboard.url + path)
        request.add_header("Authorization", f"Bearer {self.token_path.read_text()}")
        answer = self.client.call(rest.send, request, 20)
        assert answer.status == 200, answer
        return json.loads(answer.text)

    def client_environment(self) -> dict[str, str]:
        """Return variables with which `ray`, `serve` and `headrace` reach the head."""
        return self._environment() | {
            "RAY_ADDRESS": f"{self.head_host.address}:{GCS_PORT}",
            "RAY_API_SERVER_ADDRESS": self.dashboard.url,
            "RAY_DASHBOARD_ADDRESS": self.dashboard.url,
        }

    def run(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``python -m ARGUMENTS`` on the client's host."""
        return subprocess.run(
            ["ip", "netns", "exec", self.client.name, sys.executable, "-P", "-m", *arguments],
            env=self.client_environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def wait(self, ready: Callable[[], Any], otherwise: str, timeout_s: float) -> float:
        """Poll ``ready`` until it is true; return the seconds. AssertionError with all logs."""
        started = time.monotonic()
        reason = ""
        while time.monotonic() - started < timeout_s:
            try:
                if ready():
                    return time.monotonic() - started
                reason = ""
            except (OSError, HTTPException, ClusterError, AssertionError, LookupError) as error:
                reason = f": {error}"  # it may still be starting
                self.keep_head()
            time.sleep(_POLL_S)
        logs = [
            f"{node.host.address}, {'runs' if node.runs else 'has ended'}: {node.log_end}"
            for node in self.nodes
        ]
        raise AssertionError(f"{otherwise} after {timeout_s} s{reason}\n" + "\n".join(logs))
