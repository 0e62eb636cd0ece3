"""What /proc tells of a process. ``OSError`` if it has ended, or is another user's."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def started_at_s(pid: int) -> float:
    """When the kernel started it, in seconds since boot (CLOCK_BOOTTIME); steps of 10 ms."""
    return int(_stat(pid)[19]) / _TICKS_PER_S


def cpu_s(pid: int) -> float:
    """CPU time it has used, in seconds."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def parent(pid: int) -> int:
    """Process id of its parent."""
    return int(_stat(pid)[1])


def command(pid: int) -> str:
    """Its command line, or the title that it has given itself."""
    return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace")


def peak_rss_mib(pid: int) -> float:
    """The most memory it ever had resident (VmHWM), shared pages included."""
    return _mib(pid, "status", "VmHWM")


def pss_mib(pid: int) -> float:
    """What it has resident now, each page divided by the number of processes that share it."""
    return _mib(pid, "smaps_rollup", "Pss")


def has_mapped(pid: int, library: str) -> bool:
    """Whether a file whose name begins with ``library`` is mapped into it."""
    return f"/{library}" in (Path("/proc") / str(pid) / "maps").read_text()


def environment(pid: int, variable: str) -> str | None:
    """The value that an environment variable had when it was started."""
    content = (Path("/proc") / str(pid) / "environ").read_bytes()
    start = f"{variable}=".encode()
    for entry in content.split(b"\0"):
        if entry.startswith(start):
            return entry.removeprefix(start).decode("utf-8", "replace")
    return None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the second may hold anything."""
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _mib(pid: int, file: str, name: str) -> float:
    text = (Path("/proc") / str(pid) / file).read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:  # a process that is ending has no memory left to tell of
        raise ProcessLookupError(f"/proc/{pid}/{file} has no {name}")
    return int(found[1]) / 1024
