"""LocalCluster: a Ray cluster with Serve on this machine, started, deployed to and stopped."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self

from cluster.config.base import read_yaml
from cluster.errors import ClusterError, ConfigError
from deployments.local import ports, processes, rest
from deployments.local.environment import client_environment, cluster_environment
from deployments.local.record import Record, locked
from deployments.ray import haproxy

STATE_DIR = Path("~/.headrace/local")
"""Where a local cluster is recorded unless told otherwise; ``~`` is expanded."""

HTTP_PORT = 8000
DASHBOARD_PORT = 8265

_logger = logging.getLogger(__name__)

_START_S = 90.0  # `ray start` takes 4 to 8 s on two busy cores
_DEPLOY_S = 600.0
_POLL_S = 0.2
_LOG_LINES = 20  # of `ray start`, in the message when it fails


@dataclass(frozen=True)
class LocalCluster:
    """A running cluster. Get one from :meth:`start` or :meth:`running`."""

    record: Record

    @classmethod
    def start(
        cls,
        *,
        http_port: int = HTTP_PORT,
        dashboard_port: int = DASHBOARD_PORT,
        num_cpus: int | None = None,
        state_dir: Path = STATE_DIR,
    ) -> Self:
        """Start a cluster and return once its dashboard answers.

        ``num_cpus`` is what Ray schedules with; None takes the machine's. Clusters with other
        ports and another ``state_dir`` may run beside it. What a crashed one left in
        ``state_dir`` is removed first; if the start fails, or is interrupted, so is all of it.

        Raises :class:`ClusterError` if a cluster of ``state_dir`` runs already, if a port is
        taken (naming the holder), or if Ray does not start (with the end of its log).
        """
        if sys.platform != "linux":
            raise ClusterError(f"a local cluster needs Linux, for HAProxy; this is {sys.platform}")
        state_dir = state_dir.expanduser().absolute()
        with locked(state_dir):
            left = Record.read(state_dir)
            if left is not None:
                if cls(left)._is_alive():
                    raise ClusterError(
                        f"a local cluster runs already, at {cls(left).http} "
                        f"(state directory {state_dir}); stop it first"
                    )
                cls(left)._end()
            ports.require_free(http_port, "HTTP")
            ports.require_free(dashboard_port, "dashboard")
            cluster = cls(Record.create(state_dir, http_port, dashboard_port))
            try:
                cluster._start_ray(num_cpus)
                cluster._dashboard.require_protected()
            except BaseException:  # also when interrupted: nothing may stay behind
                cluster._end()
                raise
        return cluster

    @classmethod
    def running(cls, state_dir: Path = STATE_DIR) -> Self | None:
        """The cluster of ``state_dir`` if it is alive; None if there is none or it is broken."""
        record = Record.read(state_dir.expanduser().absolute())
        if record is None or not cls(record)._is_alive():
            return None
        return cls(record)

    @classmethod
    def stop_recorded(cls, state_dir: Path = STATE_DIR) -> bool:
        """Stop the cluster of ``state_dir``, alive or broken; False if there was nothing to stop.

        Raises :class:`ClusterError` if a process or a port of it remains.
        """
        state_dir = state_dir.expanduser().absolute()
        with locked(state_dir):
            record = Record.read(state_dir)
            if record is None:
                return False
            cluster = cls(record)
            held = [port for port in record.ports if ports.holder(port) is not None]
            names = cluster._process_names()
            # A Ray that has lost one of these would only let the shutdown wait for nothing.
            if {"gcs_server", "raylet", "haproxy"} <= names:
                cluster._shut_serve_down()
            cluster._end()
            if names:  # otherwise, who listens there now is somebody else
                for port in held:
                    ports.require_free(port, f"{record.ports[port]} port of the stopped cluster")
        return True

    def stop(self) -> None:
        """Stop this cluster; nothing happens if it is stopped already."""
        record = Record.read(self.record.state_dir)
        if record is not None and record.cluster_id == self.record.cluster_id:
            self.stop_recorded(self.record.state_dir)

    @property
    def http(self) -> str:
        """URL under which the models are served."""
        return f"http://127.0.0.1:{self.record.http_port}"

    @property
    def dashboard(self) -> str:
        """URL of the dashboard: job submission, Serve's REST API, the web pages."""
        return self.record.dashboard

    @property
    def gcs(self) -> str:
        """Address for ``ray.init``, ``HOST:PORT``, as Ray wrote it down."""
        return (self.record.ray_dir / "ray_current_cluster").read_text().strip()

    def environment(self) -> dict[str, str]:
        """Variables with which a client process reaches this cluster (jobs, ``ray``, ``serve``).

        ``RAY_AUTH_TOKEN`` must not be set beside them: Ray prefers it to the token file.
        """
        return client_environment(self.record, self.gcs)

    def deploy(self, config_path: Path, *, timeout_s: float = _DEPLOY_S) -> None:
        """Deploy a serve config, as ``serve deploy`` does, and wait until it serves.

        ``http_options.host`` and ``.port`` of the config are replaced by the cluster's own.
        Returns when every application is RUNNING and HAProxy knows every route.

        Raises :class:`ConfigError` if the file is no serve config, :class:`ClusterError` with
        Serve's reason if it refuses the config or an application fails, or after ``timeout_s``.
        """
        self.deploy_config(read_yaml(config_path), str(config_path), timeout_s=timeout_s)

    def deploy_config(
        self, config: dict[str, Any], where: str, *, timeout_s: float = _DEPLOY_S
    ) -> None:
        """Deploy the plain data of a serve config, which messages call ``where``; as above."""
        wanted = _applications(config, where)
        address = {"host": "127.0.0.1", "port": self.record.http_port}
        config = {**config, "http_options": {**(config.get("http_options") or {}), **address}}
        deadline = time.monotonic() + timeout_s
        self._dashboard.deploy(config)
        while (waiting := self._unready(wanted)) is not None:
            if time.monotonic() > deadline:
                raise ClusterError(f"{waiting} after {timeout_s:g} s")
            time.sleep(_POLL_S)

    def _unready(self, wanted: dict[str, str | None]) -> str | None:
        """What is not ready yet, as a sentence; None if all is. Raises if one has failed."""
        applications = self._dashboard.applications()
        waiting = None
        for name in wanted:
            details = applications.get(name, {})
            status = details.get("status", "not known to Serve")
            if status == "DEPLOY_FAILED":
                raise ClusterError(f"application {name!r} failed: {_reasons(details)}")
            if status != "RUNNING" and waiting is None:  # another one may have failed already
                waiting = f"application {name!r} is {status}: {_reasons(details)}"
        if waiting is not None:
            return waiting
        # RUNNING is the controller's word; HAProxy hears of it a moment later.
        routes = self._routes()
        missing = [route for route in wanted.values() if route and route not in routes]
        if missing:
            return f"HAProxy has no route {', '.join(missing)}"
        # Until it has found a replica up, it sends requests through Serve's own Python proxy.
        indirect = [name for name, up in self._replicas_up().items() if not up]
        return f"HAProxy has found no replica of {', '.join(indirect)}" if indirect else None

    def _replicas_up(self) -> dict[str, bool]:
        """Whether HAProxy has a replica to send to, by backend with a server in it."""
        try:
            stats = f"http://127.0.0.1:{self.record.stats_port}/stats;csv"
            answer = rest.send(urllib.request.Request(stats), timeout_s=5)
        except (OSError, HTTPException):
            return {"any application": False}
        up: dict[str, bool] = {}
        for server in csv.DictReader(answer.text.splitlines()):
            backend, name = server["# pxname"], server["svname"]
            if name.startswith("SERVE_"):
                direct = name.startswith("SERVE_REPLICA_") and server["status"] == "UP"
                up[backend] = up.get(backend, False) or direct
        return up

    def _routes(self) -> dict[str, str]:
        """Route prefix → application name, as HAProxy tells; empty while it does not answer."""
        try:
            answer = rest.send(urllib.request.Request(f"{self.http}/-/routes"), timeout_s=5)
        except (OSError, HTTPException):
            return {}
        routes: dict[str, str] = json.loads(answer.text) if answer.status == 200 else {}
        return routes

    @property
    def _dashboard(self) -> rest.Dashboard:
        return rest.Dashboard(self.record.dashboard, self.record.token_path)

    def _start_ray(self, num_cpus: int | None) -> None:
        record = self.record
        log_path = record.run_dir / "start.log"
        haproxy.binary()  # better missed now than when the first model is deployed
        # -P: a directory named ray where this runs must not be taken for the package.
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head"]
        command += [f"--port={record.gcs_port}", f"--temp-dir={record.ray_dir}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={record.dashboard_port}"]
        command += [f"--dashboard-agent-listen-port={record.agent_port}"]
        command += [f"--ray-client-server-port={record.client_port}"]
        # A machine alone has nothing for the cluster autoscaler to do: one process less to start.
        command += ["--no-monitor", "--disable-usage-stats", "--log-style=record"]
        if num_cpus is not None:
            command += [f"--num-cpus={num_cpus}"]
        with log_path.open("wb") as log:
            try:
                status = subprocess.run(
                    command,
                    env=cluster_environment(record),
                    # Ray's processes import from the folder that they run in.
                    cwd=record.run_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in this terminal must not reach the cluster
                    timeout=_START_S,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                status = None
        if status != 0:
            how = f"did not start in {_START_S:g} s" if status is None else "did not start"
            tail = log_path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            raise ClusterError("\n".join([f"Ray {how}; the end of its log:", *tail]))

    def _is_alive(self) -> bool:
        return {"gcs_server", "raylet"} <= self._process_names() and self._dashboard.is_reached()

    def _process_names(self) -> set[str]:
        return {p.name for p in processes.find(self.record.cluster_id, self.record.run_dir)}

    def _shut_serve_down(self) -> None:
        try:
            self._dashboard.shut_serve_down()
        except ClusterError as error:
            # Not the end of the stop: its processes are ended next, in good order or not.
            _logger.warning("Serve was not shut down in good order: %s", error)

    def _end(self) -> None:
        """End every process and remove what is on disk, without which nothing is recorded."""
        record = self.record
        left = processes.end(record.cluster_id, record.run_dir)
        if left:
            names = ", ".join(f"{process.name} (pid {process.pid})" for process in left)
            raise ClusterError(f"these processes of the cluster could not be ended: {names}")
        record.remove()


def _applications(config: Any, where: str) -> dict[str, str | None]:
    """Application name → route prefix (None: not reached over HTTP) of a serve config."""
    given = config.get("applications") if isinstance(config, dict) else None
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise ConfigError(f"{where}: applications: expected a list of applications, got {given!r}")
    # The defaults are Serve's own.
    return {one.get("name", "default"): one.get("route_prefix", "/") for one in given}


def _reasons(details: dict[str, Any]) -> str:
    """What Serve says of an application and, where the cause stands, of its deployments."""
    deployments = details.get("deployments", {}).items()
    said = {"": details.get("message", "")} | {name: one["message"] for name, one in deployments}
    lines = [f"{name}: {text}" if name else text for name, text in said.items() if text]
    return "\n".join(lines).strip() or "no reason given"
