"""Start of the two ranks of an eager peer; they are ended whatever happens.

peer, model → a process of ranks.py per rank → RESULT of rank 0 → FeedResult
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.harness.errors import BenchmarkError
from benchmarks.parallelism.fed import FeedResult
from deployments.local.ports import free_ports

_RANKS = 2
_START_S = 300.0
_SLOW = 20
_POLL_S = 0.1
_LOG_BYTES = 3000


def run(peer: str, python: str, model: str, seconds: float) -> FeedResult:
    """Measure a peer with the interpreter ``python``; BenchmarkError, with its log, if it fails."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
        result, log_path = Path(directory) / "fed.json", Path(directory) / "log"
        command = [python, "-m", "benchmarks.parallelism.ranks", peer, model, str(seconds)]
        port = free_ports(1)[0]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            with log_path.open("wb") as log:
                for rank in range(_RANKS):
                    started = subprocess.Popen(
                        [*command, str(result)],
                        env=os.environ | _variables(rank, port),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # Ctrl-C ends only the benchmark, which ends this
                    )
                    processes.append(started)
            if not _all_succeeded(processes, _START_S + _SLOW * seconds):
                tail = log_path.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace")
                raise BenchmarkError(f"{peer} failed on {model}; the end of its log:\n{tail}")
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return FeedResult.read(json.loads(result.read_text()))


def _variables(rank: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(_RANKS),
        "LOCAL_WORLD_SIZE": str(_RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }


def _all_succeeded(processes: list[subprocess.Popen[bytes]], timeout_s: float) -> bool:
    """Wait until all have ended or one has failed; return whether all succeeded."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        statuses = [process.poll() for process in processes]
        if any(status not in (None, 0) for status in statuses):
            return False
        if None not in statuses:
            return True
        time.sleep(_POLL_S)
    return False
