"""Load generator wrk with post.lua, on one thread, because it shares the machine's cores.

body file, headers, URL → wrk for some seconds at one concurrency → Load → figures
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders.contender import Endpoint
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.results import ERRORS, Figures

_SCRIPT = Path(__file__).parent / "post.lua"
_TIMEOUT_S = 10
_GRACE_S = 30.0
"""Time beyond its own after which wrk counts as stuck."""


@dataclass(frozen=True)
class Load:
    """Result of the load generator at one concurrency."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    non_200: int
    socket_errors: int
    """Refused, broken or timed-out connections."""

    @property
    def errors(self) -> int:
        """Requests without a 200."""
        return self.non_200 + self.socket_errors


def figures(loads: Mapping[int, Load]) -> Figures:
    """Return the figures of several loads by concurrency."""
    values: Figures = {}
    for concurrency, load in loads.items():
        at = f"at c={concurrency}"
        values |= {
            f"p50 ms {at}": load.p50_ms,
            f"p99 ms {at}": load.p99_ms,
            f"max ms {at}": load.max_ms,
            f"req/s {at}": load.requests_per_s,
            f"requests {at}": load.requests,
        }
    return {**values, ERRORS: sum(load.errors for load in loads.values())}


def require() -> str:
    """Return the path of wrk; BenchmarkError with its package if it is not installed."""
    path = shutil.which("wrk")
    if path is None:
        raise BenchmarkError("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")
    return path


def post(endpoint: Endpoint, body: Path, concurrency: int, seconds: int) -> Load:
    """Keep ``concurrency`` requests with the bytes of ``body`` in flight for ``seconds``."""
    headers = [part for header in endpoint.headers.items() for part in header]
    command = [require(), "-t1", f"-c{concurrency}", f"-d{seconds}s"]
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
    """Return the load of wrk's output, whose last line is post.lua's."""
    counts = json.loads(output.strip().splitlines()[-1])
    if counts["requests"] == 0:
        raise BenchmarkError("the load generator got no answer at all; is the server stuck?")
    return Load(
        requests=counts["requests"],
        requests_per_s=counts["requests"] / counts["duration_s"],
        p50_ms=counts["p50_ms"],
        p99_ms=counts["p99_ms"],
        max_ms=counts["max_ms"],
        non_200=counts["non_200"],
        socket_errors=counts["socket_errors"],
    )
