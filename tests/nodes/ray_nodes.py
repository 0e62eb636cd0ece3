"""Ray on several hosts: a head that computes nothing, and nodes, each a `ray start` of its own.

A node runs in namespaces of its own for processes, mounts and network, as a machine does: its
temporary files and shared memory are its own, and killing its first process ends all of it at
once, without a word to anybody.
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

_OWN = Path("/mnt")
"""Where a node has its own files: a short path, for a socket's may have about 100 bytes."""

NODE_BACK_S = 15
"""Goal: all replicas run again so long after a node was lost, in seconds."""

_START_S = 270
"""Bound for a head or a node that starts: three times what the slowest known machine needed. One
that has ended is started again at once."""

_KILLED_S = 30
_MOST_STARTS = 8
"""Of the head, in all tests together, each of which may kill it once."""
_POLL_S = 0.25


@dataclass
class Node:
    """A `ray start --block` on a host."""

    host: Host
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """End every process of the node at once. Its kernel lives, and resets its connections."""
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + _KILLED_S
        while left := self.host.processes:  # the kernel ends those of a namespace after its first
            assert time.monotonic() < deadline, f"{self.host.address} still runs {left}"
            time.sleep(0.02)

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def log_end(self) -> str:
        return self.log.read_text()[-600:]


@dataclass
class Nodes:
    """The cluster; use as a context manager."""

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
        with ExitStack() as after:  # each, whatever became of those before it
            after.callback(self.network.__exit__)
            after.callback(self._require_ended, self.client)
            for node in self.nodes:
                after.callback(node.kill)

    def _require_ended(self, host: Host) -> None:
        assert not host.processes, f"processes are left on {host.address}: {host.processes}"

    # ------------------------------------------------------------------------------- the nodes

    def start_head(self) -> float:
        """Start the head, or start it again with what its storage holds; wait until it answers.

        Returns the seconds that took.
        """
        self._launch_head()
        return self.wait(self._head_answers, "the dashboard does not answer", _START_S)

    def _head_answers(self) -> bool:
        self.keep_head()
        return self.client.call(self.dashboard.is_reached)

    def keep_head(self) -> None:
        """Start the head again if it has ended by itself, as Kubernetes would."""
        if not self.head.runs:
            assert self.head_starts < _MOST_STARTS, f"the head ends and ends: {self.head.log_end}"
            self._launch_head()

    def _launch_head(self) -> None:
        storage = self.directory / "gcs"
        storage.mkdir(exist_ok=True)
        self.head = self._start(
            self.head_host,
            *("--head", f"--port={GCS_PORT}", "--dashboard-host=0.0.0.0", "--num-cpus=0"),
            f"--temp-dir={_OWN / 'ray'}",
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
            if not node.runs:  # Ray gives one up whose agent needs 15 s to start
                node = self._start_node(host, cpus)
            return host.address in self.alive()

        self.wait(joined, "the node does not join", _START_S)
        return node

    def _start_node(self, host: Host, cpus: int) -> Node:
        return self._start(
            host, f"--address={self.head_host.address}:{GCS_PORT}", f"--num-cpus={cpus}"
        )

    def alive(self) -> list[str]:
        """Addresses of the nodes that the head takes for alive, itself excepted."""
        rows = self.listed("nodes")
        return [r["node_ip"] for r in rows if r["state"] == "ALIVE" and not r["is_head_node"]]

    def listed(self, kind: str) -> list[dict[str, Any]]:
        """The rows of Ray's state API: ``nodes``, ``actors``, ``placement_groups``."""
        answer = self.ask_head(f"/api/v0/{kind}?limit=10000&detail=1")
        rows: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return rows

    def processes(self) -> list[Process]:
        """Those that run on the hosts, the client's excepted, whoever started them."""
        hosts = {node.host.name: node.host for node in self.nodes}.values()
        found = [read_process(pid, host.address) for host in hosts for pid in host.processes]
        return [each for each in found if each is not None]

    @property
    def head_starts(self) -> int:
        """How often the head was started, by :meth:`keep_head` too."""
        return sum(node.host is self.head_host for node in self.nodes)

    @property
    def running(self) -> list[Node]:
        """The nodes that have not been killed, the head excepted."""
        return [node for node in self.nodes if node.runs and node.host is not self.head_host]

    def node_at(self, address: str) -> Node:
        return next(node for node in self.running if node.host.address == address)

    def run_on(self, node: Node, *command: str) -> subprocess.CompletedProcess[str]:
        """A command on a node, among its processes and with its files."""
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
        own = self.directory / host.name
        for name in ("ray", "tmp", "haproxy"):
            (own / name).mkdir(parents=True, exist_ok=True)
        log = own / f"start-{len(self.nodes)}.log"
        mounts = f'mount --bind {own} {_OWN} && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        # However this process ends, the node ends with it.
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
        haproxy = _OWN / "haproxy"
        common = serving_environment() | network_environment()
        return (
            os.environ
            | common
            | {
                "TMPDIR": str(_OWN / "tmp"),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(self.token_path),
                "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
                "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
                "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
                "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
                "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
                # Every node's HAProxy reloads without the replica meanwhile; 30 s, Serve's
                # own, would be waited out. One that is later finds the port closed, waits a second,
                # tries one other replica, and if that has ended, too, answers with 503.
                "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",
            }
        )

    # -------------------------------------------------------------------------------- the head

    @property
    def dashboard(self) -> rest.Dashboard:
        return rest.Dashboard(f"http://{self.head_host.address}:{DASHBOARD_PORT}", self.token_path)

    def ask_head(self, path: str) -> Any:
        """The JSON that the dashboard answers a GET with."""
        request = urllib.request.Request(self.dashboard.url + path)
        request.add_header("Authorization", f"Bearer {self.token_path.read_text()}")
        answer = self.client.call(rest.send, request, 20)
        assert answer.status == 200, answer
        return json.loads(answer.text)

    def client_environment(self) -> dict[str, str]:
        """What `ray`, `serve` and `headrace` need to reach the head from the client's host."""
        return self._environment() | {
            "RAY_ADDRESS": f"{self.head_host.address}:{GCS_PORT}",
            "RAY_API_SERVER_ADDRESS": self.dashboard.url,
            "RAY_DASHBOARD_ADDRESS": self.dashboard.url,
        }

    def run(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """``python -m ARGUMENTS`` on the client's host."""
        return subprocess.run(
            ["ip", "netns", "exec", self.client.name, sys.executable, "-P", "-m", *arguments],
            env=self.client_environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def wait(self, ready: Callable[[], Any], otherwise: str, timeout_s: float) -> float:
        """Ask until it is so; returns the seconds that took."""
        started = time.monotonic()
        reason = ""
        while time.monotonic() - started < timeout_s:
            try:
                if ready():
                    return time.monotonic() - started
                reason = ""
            except (OSError, HTTPException, ClusterError, AssertionError, LookupError) as error:
                reason = f": {error}"  # who does not answer yet may be still starting
                self.keep_head()
            time.sleep(_POLL_S)
        logs = [
            f"{node.host.address}, {'runs' if node.runs else 'has ended'}: {node.log_end}"
            for node in self.nodes
        ]
        raise AssertionError(f"{otherwise} after {timeout_s} s{reason}\n" + "\n".join(logs))
