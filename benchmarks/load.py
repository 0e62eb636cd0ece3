"""The load generator: wrk with post.lua, one thread, because it shares the machine's cores.

body file, headers, URL → wrk for some seconds at one concurrency → Load
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.contender import Endpoint
from benchmarks.errors import BenchmarkError
from benchmarks.results import Load

_SCRIPT = Path(__file__).parent / "post.lua"
_TIMEOUT_S = 10
_GRACE_S = 30.0  # beyond its time, until wrk counts as stuck


def wrk() -> str:
    """Path of wrk; BenchmarkError naming the package if it is not installed."""
    path = shutil.which("wrk")
    if path is None:
        raise BenchmarkError("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")
    return path


def post(endpoint: Endpoint, body: Path, concurrency: int, seconds: int) -> Load:
    """Keep ``concurrency`` requests with the bytes of ``body`` under way for ``seconds``."""
    headers = [part for header in endpoint.headers.items() for part in header]
    command = [wrk(), "-t1", f"-c{concurrency}", f"-d{seconds}s"]
    command += ["--timeout", f"{_TIMEOUT_S}s", "-s", str(_SCRIPT), endpoint.url, "--"]
    done = subprocess.run(
        [*command, str(body), *headers],
        capture_output=True,
        text=True,
        timeout=seconds + _GRACE_S,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkError(
            f"wrk failed on {endpoint.url}: {(done.stderr or done.stdout).strip()}"
        )
    return parse(done.stdout)


def parse(output: str) -> Load:
    """What wrk printed, of which the last line is post.lua's."""
    found = json.loads(output.strip().splitlines()[-1])
    if found["requests"] == 0:
        raise BenchmarkError("the load generator got no answer at all; is the server stuck?")
    return Load(
        requests=found["requests"],
        requests_per_s=found["requests"] / found["duration_s"],
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        max_ms=found["max_ms"],
        non_200=found["non_200"],
        socket_errors=found["socket_errors"],
    )
