"""Contenders that are one of the modules in benchmarks/servers, run as a process of its own.

python -m benchmarks.servers.MODULE PORT WEIGHTS    with the artifact's id in the environment
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

from benchmarks.contender import Contender, Endpoint, Server, Weights
from benchmarks.errors import BenchmarkError
from benchmarks.servers.settings import ARTIFACT_VARIABLE, RUN_DIR_VARIABLE
from deployments.local import processes

_LOG_BYTES = 3000  # of the server's log, in the message when it ends


def scripted(
    key: str, title: str, weights: Weights, module: str, path: str, ready_path: str | None
) -> Contender:
    """A contender whose server is ``benchmarks.servers.MODULE``, posted to at ``path``."""

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
    # In /tmp itself: Ray's sockets lie below it, and a socket's path may have 107 bytes at most.
    run_dir = Path(tempfile.mkdtemp(prefix="headrace-", dir="/tmp"))
    log_path = run_dir / "server.log"
    # Serve runs with its defaults: nothing of the caller's Ray settings reaches it.
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
    environment = inherited | {
        processes.MARK: mark,
        ARTIFACT_VARIABLE: artifact_id,
        RUN_DIR_VARIABLE: str(run_dir),
        "TMPDIR": str(run_dir),  # what a server leaves behind goes with it
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.servers.{module}", str(port), weights],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the benchmark, which then ends this
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
        left = processes.end(mark, run_dir)
        process.wait()
        shutil.rmtree(run_dir, ignore_errors=bool(left))
        if left:
            names = ", ".join(f"{one.name} (pid {one.pid})" for one in left)
            raise BenchmarkError(f"{module}: these processes could not be ended: {names}")
