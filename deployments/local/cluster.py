"""LocalCluster: start, deployment and stop of a Ray cluster with Serve on this machine."""

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
from deployments.local.record import ClusterRecord, locked
from deployments.local.tracebacks import without_frames
from deployments.ray import haproxy

STATE_DIR = Path("~/.headrace/local")
"""Default directory of a local cluster's record; ``~`` is expanded."""

HTTP_PORT = 8000
DASHBOARD_PORT = 8265

_logger = logging.getLogger(__name__)

_START_S = 90.0  # `ray start` takes 4 to 8 s on two busy cores
_DEPLOY_S = 600.0
_POLL_S = 0.2
_LOG_LINES = 20  # of `ray start`, in the message when it fails


@dataclass(frozen=True)
class LocalCluster:
    """Running local cluster, from :meth:`start` or :meth:`running`."""

    record: ClusterRecord

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

        ``num_cpus``: CPUs that Ray schedules; None: those of the machine. Several clusters may run
        at once, with different ports and ``state_dir``. The remains of a crashed cluster in
        ``state_dir`` are removed first. A failed or interrupted start leaves nothing behind.

        Raises :class:`ClusterError` if a cluster of ``state_dir`` runs already, if a port is busy
        (with its holder), or if Ray does not start (with the end of its log).
        """
        if sys.platform != "linux":
            raise ClusterError(f"a local cluster needs Linux, for HAProxy; this is {sys.platform}")
        state_dir = state_dir.expanduser().absolute()
        with locked(state_dir):
            earlier = ClusterRecord.read(state_dir)
            if earlier is not None:
                if cls(earlier)._is_alive():
                    raise ClusterError(
                        f"a local cluster runs already, at {cls(earlier).http} "
                        f"(state directory {state_dir}); stop it first"
                    )
                cls(earlier)._end()
            ports.require_free(http_port, "HTTP")
            ports.require_free(dashboard_port, "dashboard")
            cluster = cls(ClusterRecord.create(state_dir, http_port, dashboard_port))
            try:
                cluster._start_ray(num_cpus)
                cluster._dashboard.require_protected()
            except BaseException:  # also an interrupt: no process or file may stay behind
                cluster._end()
                raise
        return cluster

    @classmethod
    def running(cls, state_dir: Path = STATE_DIR) -> Self | None:
        """Return the cluster of ``state_dir`` if it is alive; None if it is absent or broken."""
        record = ClusterRecord.read(state_dir.expanduser().absolute())
        if record is None or not cls(record)._is_alive():
            return None
        return cls(record)

    @classmethod
    def stop_recorded(cls, state_dir: Path = STATE_DIR) -> bool:
        """Stop the cluster of ``state_dir``, alive or broken; return False if there is none.

        Raises :class:`ClusterError` if a process or a port of it remains.
        """
        state_dir = state_dir.expanduser().absolute()
        with locked(state_dir):
            record = ClusterRecord.read(state_dir)
            if record is None:
                return False
            cluster = cls(record)
            held = [port for port in record.ports if ports.holder(port) is not None]
            names = cluster._process_names()
            # Without one of these processes, the shutdown of Serve would only run into its timeout.
            if {"gcs_server", "raylet", "haproxy"} <= names:
                cluster._shut_serve_down()
            cluster._end()
            if names:  # otherwise the listener is another program's
                for port in held:
                    ports.require_free(port, f"{record.ports[port]} port of the stopped cluster")
        return True

    def stop(self) -> None:
        """Stop this cluster, unless it is stopped already."""
        record = ClusterRecord.read(self.record.state_dir)
        if record is not None and record.cluster_id == self.record.cluster_id:
            self.stop_recorded(self.record.state_dir)

    @property
    def http(self) -> str:
        """URL of the models."""
        return f"http://127.0.0.1:{self.record.http_port}"

    @property
    def dashboard(self) -> str:
        """URL of the dashboard: job submission, Serve's REST API, web pages."""
        return self.record.dashboard

    @property
    def gcs(self) -> str:
        """Address for ``ray.init``, ``HOST:PORT``, from Ray's own file."""
        return (self.record.ray_dir / "ray_current_cluster").read_text().strip()

    def environment(self) -> dict[str, str]:
        """Return the variables of a client of this cluster (jobs, ``ray``, ``serve``).

        ``RAY_AUTH_TOKEN`` must be unset: Ray prefers it to the token file.
        """
        return client_environment(self.record, self.gcs)

    def deploy(self, config_path: Path, *, timeout_s: float = _DEPLOY_S) -> None:
        """Deploy a serve config, as ``serve deploy`` does, and wait until it serves.

        ``http_options.host`` and ``.port`` of the config are replaced by those of the cluster.
        Returns when every application is RUNNING and HAProxy knows every route.

        Raises :class:`ConfigError` if the file is no serve config. Raises :class:`ClusterError`
        with Serve's reason if the config is rejected or an application fails, or after
        ``timeout_s``.
        """
        self.deploy_config(read_yaml(config_path), str(config_path), timeout_s=timeout_s)

    def deploy_config(
        self, config: dict[str, Any], where: str, *, timeout_s: float = _DEPLOY_S
    ) -> None:
        """Deploy the plain data of a serve config, as above; messages name it ``where``."""
        applications = _applications(config, where)
        address = {"host": "127.0.0.1", "port": self.record.http_port}
        config = {**config, "http_options": {**(config.get("http_options") or {}), **address}}
        deadline = time.monotonic() + timeout_s
        self._dashboard.deploy(config)
        while (pending := self._pending_reason(applications)) is not None:
            if time.monotonic() > deadline:
                raise ClusterError(f"not ready after {timeout_s:g} s: {pending}")
            time.sleep(_POLL_S)

    def _pending_reason(self, routes_of: dict[str, str | None]) -> str | None:
        """Return the reason that the applications are not ready; None if they are.

        ``routes_of``: route prefix of each application. Raises ClusterError if one has failed.
        """
        applications = self._dashboard.applications()
        pending = None
        for name in routes_of:
            details = applications.get(name, {})
            status = details.get("status", "not known to Serve")
            if status == "DEPLOY_FAILED":
                raise ClusterError(f"application {name!r} failed: {_reasons(details)}")
            if status != "RUNNING" and pending is None:  # another application may have failed
                pending = f"application {name!r} is {status}: {_reasons(details)}"
        if pending is not None:
            return pending
        # HAProxy is updated a moment after the controller reports RUNNING.
        routes = self._routes()
        missing = [route for route in routes_of.values() if route and route not in routes]
        if missing:
            return f"HAProxy has no route {', '.join(missing)}"
        # Before its first successful check of a replica, HAProxy uses Serve's own Python proxy.
        indirect = [name for name, up in self._replicas_up().items() if not up]
        return f"HAProxy has no available replica of {', '.join(indirect)}" if indirect else None

    def _replicas_up(self) -> dict[str, bool]:
        """Return whether HAProxy has an available replica, by backend."""
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
        """Return application names by route prefix, from HAProxy; empty while it is unavailable."""
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
        haproxy.binary()  # raises now rather than at the first deployment
        # -P: a directory named ray in the current one must not shadow the package.
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head"]
        command += [f"--port={record.gcs_port}", f"--temp-dir={record.ray_dir}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={record.dashboard_port}"]
        command += [f"--dashboard-agent-listen-port={record.agent_port}"]
        command += [f"--ray-client-server-port={record.client_port}"]
        # A single machine needs no autoscaler process.
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
            log_text = without_frames(log_path.read_text(errors="replace"))
            tail = log_text.splitlines()[-_LOG_LINES:]
            raise ClusterError("\n".join([f"Ray {how}; the end of its log:", *tail]))

    def _is_alive(self) -> bool:
        return {"gcs_server", "raylet"} <= self._process_names() and self._dashboard.is_reached()

    def _process_names(self) -> set[str]:
        return {p.name for p in processes.find(self.record.cluster_id, self.record.run_dir)}

    def _shut_serve_down(self) -> None:
        try:
            self._dashboard.shut_serve_down()
        except ClusterError as error:
            # The stop continues: the processes of Serve are ended next in any case.
            _logger.warning("Serve did not shut down cleanly: %s", error)

    def _end(self) -> None:
        """End every process, then remove the files, so that remaining processes stay on record."""
        record = self.record
        remaining = processes.end(record.cluster_id, record.run_dir)
        if remaining:
            names = ", ".join(f"{process.name} (pid {process.pid})" for process in remaining)
            raise ClusterError(
                f"these processes of the cluster did not end: {names}; end them, then stop again"
            )
        record.remove()


def _applications(config: Any, where: str) -> dict[str, str | None]:
    """Return the route prefixes of a serve config by application; None: not served over HTTP."""
    entries = config.get("applications") if isinstance(config, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(
            f"{where}: applications: expected a list of applications, got {entries!r}"
        )
    # The defaults are those of Serve.
    return {entry.get("name", "default"): entry.get("route_prefix", "/") for entry in entries}


def _reasons(details: dict[str, Any]) -> str:
    """Return Serve's messages of an application and its deployments, which have the cause."""
    messages = {"": details.get("message", "")}
    messages |= {name: one["message"] for name, one in details.get("deployments", {}).items()}
    lines = [f"{name}: {text}" if name else text for name, text in messages.items() if text]
    return "\n".join(lines).strip() or "no reason given"
