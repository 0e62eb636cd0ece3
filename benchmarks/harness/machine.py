"""Conditions of a run besides the code: CPU, cores, memory, kernel, date, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import psutil

from cluster import __version__
from cluster.program import node


def describe(packages: Iterable[str]) -> dict[str, Any]:
    """Return the machine as plain data, with the versions of ``packages``.

    A package that is not installed has the version None. ``wrk`` is the program of that name.
    """
    versions: dict[str, str | None] = {"headrace": __version__}
    versions |= {name: _wrk_version() if name == "wrk" else _version(name) for name in packages}
    return {
        "cpu": node.cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "targets": list(node.targets()),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": versions,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _wrk_version() -> str | None:
    if shutil.which("wrk") is None:
        return None
    # wrk -v also prints its usage, and exits with 1.
    done = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return done.stdout.split(" [", 1)[0].removeprefix("wrk ")
