"""``headrace environment``: a shell that evaluates it starts Ray as `headrace up` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from deployments.ray.environment import network_environment, serving_environment

SHELL = """
printed="$(headrace environment)" && eval "$printed" && exec "$0" -c '
import json, os; print(json.dumps(dict(os.environ)))'
"""


def shell(**variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **variables}
    command = ["sh", "-c", SHELL, sys.executable]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_shell_has_all_that_serving_and_the_network_need() -> None:
    wanted = serving_environment() | network_environment() | {"RAY_AUTH_MODE": "token"}
    assert len(wanted) > 10
    done = shell()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    exported = json.loads(done.stdout)
    # The same program by whatever path this virtual environment is reached.
    program = "RAY_SERVE_HAPROXY_BINARY_PATH"
    assert os.path.samefile(exported.pop(program), wanted.pop(program))
    assert wanted.items() <= exported.items()


def test_a_wrong_deadline_is_refused() -> None:
    done = shell(HEADRACE_MAX_REQUEST_TIMEOUT_S="soon")
    assert done.returncode == 2
    assert done.stderr.startswith("headrace: HEADRACE_MAX_REQUEST_TIMEOUT_S")
