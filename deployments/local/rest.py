"""REST API of a Ray dashboard: deployment, state and shutdown of Serve's applications.

PUT    /api/serve/applications/   a serve config, as `serve deploy` sends it
GET    /api/serve/applications/   the state of every application
DELETE /api/serve/applications/   `serve shutdown`
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from deployments.local.tracebacks import without_frames

_APPLICATIONS = "/api/serve/applications/"
_VERSION = "/api/version"

# Never through a proxy from the environment: the dashboard is on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class DashboardAnswer:
    """Answer of the dashboard: status and text."""

    status: int
    text: str


@dataclass(frozen=True)
class Dashboard:
    """Client of the dashboard at ``url``, with the token in ``token_path``."""

    url: str
    token_path: Path

    def is_reached(self) -> bool:
        """Whether a dashboard answers that accepts the token."""
        try:
            return self._ask("GET", _VERSION, timeout_s=5).status == 200
        except ClusterError:
            return False

    def require_protected(self) -> None:
        """Raise :class:`ClusterError` unless a request without the token is rejected."""
        status = self._ask("GET", _VERSION, timeout_s=10, with_token=False).status
        if status != 401:
            raise ClusterError(
                f"the dashboard at {self.url} answered {status} to a request without a token "
                "instead of 401: token authentication is disabled"
            )

    def deploy(self, config: dict[str, Any]) -> None:
        """Send a config to Serve; :class:`ClusterError` with its reason if it is rejected."""
        # The first PUT also starts Serve's controller and HAProxy.
        self._require_ok("PUT", self._ask("PUT", _APPLICATIONS, timeout_s=120, body=config))

    def applications(self) -> dict[str, dict[str, Any]]:
        """Return the applications' details by name, with ``status`` and ``message``."""
        answer = self._ask("GET", _APPLICATIONS, timeout_s=30)
        self._require_ok("GET", answer)
        applications: dict[str, dict[str, Any]] = json.loads(answer.text)["applications"]
        return applications

    def shut_serve_down(self) -> None:
        """Shut down every application, the controller and HAProxy."""
        self._require_ok("DELETE", self._ask("DELETE", _APPLICATIONS, timeout_s=20))

    def _require_ok(self, method: str, answer: DashboardAnswer) -> None:
        if answer.status != 200:
            raise ClusterError(
                f"the dashboard answered {method} {_APPLICATIONS} with {answer.status}: "
                f"{without_frames(answer.text)}"
            )

    def _ask(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float,
        body: dict[str, Any] | None = None,
        with_token: bool = True,
    ) -> DashboardAnswer:
        request = urllib.request.Request(self.url + path, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            if with_token:
                request.add_header("Authorization", f"Bearer {self.token_path.read_text()}")
            return send(request, timeout_s)
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"the dashboard at {self.url} is unavailable: {error}") from error


def send(request: urllib.request.Request, timeout_s: float) -> DashboardAnswer:
    """Send a request to this machine; return the answer with any status.

    Raises ``OSError`` or ``http.client.HTTPException`` without an answer.
    """
    try:
        with _opener.open(request, timeout=timeout_s) as answer:
            return DashboardAnswer(answer.status, answer.read().decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        return DashboardAnswer(error.code, error.read().decode("utf-8", "replace"))
