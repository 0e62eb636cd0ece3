"""Facts of a process: start, CPU time, memory, libraries, environment.

Every function raises ``psutil.Error`` if the process has ended or belongs to another user.
"""

from __future__ import annotations

import re
from pathlib import Path

import psutil


def started_at_s(pid: int) -> float:
    """Return when the kernel started it, in seconds since boot, in steps of 10 ms."""
    # psutil adds the boot time, which Linux rounds to seconds, to the kernel's figure.
    return psutil.Process(pid).create_time() - psutil.boot_time()


def cpu_s(pid: int) -> float:
    """Return the CPU time that it has used, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def parent(pid: int) -> int:
    """Return the process id of its parent."""
    return psutil.Process(pid).ppid()


def command(pid: int) -> str:
    """Return its command line, or the title that it has set."""
    return " ".join(psutil.Process(pid).cmdline())


def peak_rss_mib(pid: int) -> float:
    """Return its peak resident memory, VmHWM, which psutil does not read."""
    try:
        status = (Path("/proc") / str(pid) / "status").read_text()
    except FileNotFoundError as error:
        raise psutil.NoSuchProcess(pid) from error
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if peak is None:  # an ending process has no memory left
        raise psutil.NoSuchProcess(pid)
    return int(peak[1]) / 1024


def pss_mib(pid: int) -> float:
    """Return its resident memory, each page divided by the processes that share it."""
    process = psutil.Process(pid)
    memory = process.memory_full_info()
    if memory.rss == 0:  # an ending process has no memory left
        raise psutil.NoSuchProcess(pid)
    return float(memory.pss / 2**20)


def has_mapped(pid: int, library: str) -> bool:
    """Return whether a file whose name begins with ``library`` is mapped into it."""
    maps = psutil.Process(pid).memory_maps(grouped=True)
    return any(Path(file.path).name.startswith(library) for file in maps)


def environment(pid: int, variable: str) -> str | None:
    """Return the value of an environment variable at its start."""
    return psutil.Process(pid).environ().get(variable)
