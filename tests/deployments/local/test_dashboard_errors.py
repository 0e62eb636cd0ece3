"""Errors of the dashboard, as a user reads them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from deployments.local.rest import Dashboard

# As Ray 2.60 answers if HAProxy's actor does not start.
TRACEBACK = """Traceback (most recent call last):
  File "/lib/ray/serve/_private/api.py", line 218, in serve_start_async
    await asyncio.wait_for(
ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
\tclass_name: HAProxyManager
The actor is dead because it was killed by `ray.kill`.
"""

Failing = Callable[[str], Dashboard]


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Failing]:
    """Yield a function that returns a dashboard, which answers every request 500 with a text."""
    text = ""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(500)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    token = tmp_path / "token"
    token.write_text("token")

    def dashboard(answer: str) -> Dashboard:
        nonlocal text
        text = answer
        return Dashboard(f"http://127.0.0.1:{server.server_port}", token)

    try:
        yield dashboard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_error_of_dashboard_shows_no_traceback(failing: Failing) -> None:
    with pytest.raises(ClusterError) as error:
        failing(TRACEBACK).applications()
    assert str(error.value) == (
        "the dashboard answered GET /api/serve/applications/ with 500: "
        "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task."
    )


@pytest.mark.parametrize("text", ["no such application", "a: b\nsecond line"])
def test_error_without_traceback_is_shown_whole(failing: Failing, text: str) -> None:
    with pytest.raises(ClusterError) as error:
        failing(text).applications()
    assert str(error.value).endswith(f"with 500: {text}")
