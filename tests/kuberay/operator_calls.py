"""Requests of KubeRay's operator and job submitter to a head, sent over real HTTP.

RayService   PUT  /api/serve/applications/                        serveConfigV2 as JSON
             GET  /api/serve/applications/?api_type=declarative   polled
RayJob       `ray job status ID` or, for an unknown id, `ray job submit`; then its log
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support.http_client import Answer, ask
from support.wait import until

from deployments.local import LocalCluster

_APPLICATIONS = "/api/serve/applications/"


@dataclass
class Operator:
    """Controller that keeps the config of a RayService on a head."""

    cluster: LocalCluster

    @property
    def _headers(self) -> dict[str, str]:
        token = self.cluster.record.token_path.read_text()
        return {"x-ray-authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def put(self, serve_config: str) -> Answer:
        """Send a ``serveConfigV2``, YAML as in the manifest."""
        body = json.dumps(yaml.safe_load(serve_config)).encode()
        return ask(
            self.cluster.dashboard + _APPLICATIONS, body, self._headers, method="PUT", timeout_s=120
        )

    def poll(self) -> dict[str, Any]:
        """Return the status that the operator reads, by application."""
        url = f"{self.cluster.dashboard}{_APPLICATIONS}?api_type=declarative"
        answer = ask(url, headers=self._headers)
        assert answer.status == 200, answer
        return answer.json["applications"]

    def wait(self, ready: Callable[[dict[str, Any]], bool]) -> None:
        until(
            lambda: ready(self.poll()),
            lambda: json.dumps(self.poll(), indent=1)[:4000],
            poll_s=0.5,
        )

    def wait_until_running(self, names: set[str]) -> None:
        self.wait(
            lambda status: (
                names <= set(status) and all(status[name]["status"] == "RUNNING" for name in names)
            )
        )


@dataclass
class Submitter:
    """Pod that submits a RayJob: the same script at every start."""

    cluster: LocalCluster
    environment: dict[str, str]

    def run(self, submission_id: str, entrypoint: list[str], timeout_s: float) -> str:
        """Submit unless the id is known, follow to the end and return the job's log."""
        if self._ray("status", submission_id, check=False).returncode != 0:
            self.submit(submission_id, entrypoint)
        return self._ray("logs", "--follow", submission_id, timeout_s=timeout_s).stdout

    def submit(
        self, submission_id: str, entrypoint: list[str], *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        variables = json.dumps({"env_vars": self.environment})
        return self._ray(
            *("submit", "--no-wait", "--submission-id", submission_id),
            *("--runtime-env-json", variables, "--", *entrypoint),
            check=check,
        )

    def status(self, submission_id: str) -> str:
        return self._ray("status", submission_id).stdout

    def _ray(
        self, *arguments: str, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "job", *arguments]
        environment = os.environ | self.cluster.environment()
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


def service_config(manifests: Path) -> str:
    """Return the ``serveConfigV2`` of the RayService among rendered manifests."""
    for path in manifests.glob("*.yaml"):
        document = yaml.safe_load(path.read_text())
        if isinstance(document, dict) and document.get("kind") == "RayService":
            return str(document["spec"]["serveConfigV2"])
    raise AssertionError(f"no RayService in {manifests}")
