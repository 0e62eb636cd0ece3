"""Footprint of a server after the load: memory of its processes, and which of them computes.

The computing process is the one that has libtorch loaded and used the most CPU time.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from benchmarks.contenders import process_facts
from benchmarks.contenders.contender import Server
from benchmarks.harness.errors import BenchmarkError


@dataclass(frozen=True)
class Footprint:
    """Memory of all processes of a server."""

    compute_pid: int
    compute_peak_mib: float
    """Peak resident memory of the computing process, plus that of its descendants."""
    all_pss_mib: float
    """Proportional memory of all processes: a page shared by two counts half for each."""
    processes: int
    torch_python_loaded: bool
    """Whether the computing process has PyTorch's Python package in memory."""


def footprint(server: Server) -> Footprint:
    """Return the server's footprint; BenchmarkError if no process of it computes."""
    alive: dict[int, float] = {}
    parents: dict[int, int] = {}
    computing: dict[int, float] = {}
    for process in server.find():
        try:
            memory, parent = process_facts.pss_mib(process.pid), process_facts.parent(process.pid)
            computes = process_facts.has_mapped(process.pid, "libtorch_cpu.so")
            cpu_s = process_facts.cpu_s(process.pid)
        except psutil.Error:
            continue  # ended meanwhile
        alive[process.pid], parents[process.pid] = memory, parent
        if computes:
            computing[process.pid] = cpu_s
    if not computing:
        raise BenchmarkError("no process of the server has libtorch loaded, so none computes")
    compute_pid = max(computing, key=lambda pid: computing[pid])
    family = [pid for pid in alive if compute_pid in _ancestry(pid, parents)]
    return Footprint(
        compute_pid=compute_pid,
        compute_peak_mib=sum(process_facts.peak_rss_mib(pid) for pid in family),
        all_pss_mib=sum(alive.values()),
        processes=len(alive),
        torch_python_loaded=process_facts.has_mapped(compute_pid, "libtorch_python"),
    )


def _ancestry(pid: int, parents: dict[int, int]) -> list[int]:
    """Return the process and its ancestors among the server's processes."""
    line = []
    while pid in parents:
        line.append(pid)
        pid = parents[pid]
    return line
