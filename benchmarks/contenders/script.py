"""Contender that is a server script, run in a process of its own.

python -m MODULE PORT WEIGHTS    with the artifact's id in the environment
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.artifacts.reference import Weights
from benchmarks.contenders.contender import Contender, Endpoint, Server
from benchmarks.harness.errors import BenchmarkError
from benchmarks.servers.settings import ARTIFACT_VARIABLE, RUN_DIR_VARIABLE
from deployments.local import processes

_LOG_BYTES = 3000
"""Length of the log's end in the message about a server that ended."""


def scripted(
    key: str, title: str, weights: Weights, module: str, path: str, ready_path: str | None
) -> Contender:
    """Return the contender whose server is ``module`` and takes requests at ``path``."""

    def endpoint(port: int) -> Endpoint:
        base = f"http://127.0.0.1:{port}"
        headers = {"Content-Type": "application/octet-stream"}
        return Endpoint(base + path, headers, ready_path and base + ready_path)

    def start(artifact_id: str, port: int) -> AbstractContextManager[Server]:
        return _running(module, weights, artifact_id, port)

    return Contender(key, title, weights, endpoint, start)


@contextmanager
def _running(module: str, weights: Weights, artifact_id: str, port: int) -> Iterator[Server]:
    mark = secrets.token_hex(8)
    # In /tmp itself: Ray's sockets are below it, and the path of a socket has at most 107 bytes.
    run_dir = Path(tempfile.mkdtemp(prefix="headrace-", dir="/tmp"))
    log_path = run_dir / "server.log"
    # The caller's Ray settings are removed, so that Serve runs with its defaults.
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
    environment = inherited | {
        processes.MARK: mark,
        ARTIFACT_VARIABLE: artifact_id,
        RUN_DIR_VARIABLE: str(run_dir),
        "TMPDIR": str(run_dir),  # removed at the end with all that the server leaves there
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(port), weights],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends only the benchmark, which ends this
        )

    def require_alive() -> None:
        if process.poll() is not None:
            tail = log_path.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace")
            raise BenchmarkError(
                f"{module} ended by itself (exit status {process.returncode}); its log:\n{tail}"
            )

    try:
        yield Server(mark, lambda: processes.find(mark, run_dir), require_alive)
    finally:
        remaining = processes.end(mark, run_dir)
        process.wait()
        shutil.rmtree(run_dir, ignore_errors=bool(remaining))
        if remaining:
            names = ", ".join(f"{other.name} (pid {other.pid})" for other in remaining)
            raise BenchmarkError(f"{module}: these processes could not be ended: {names}")
