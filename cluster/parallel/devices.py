"""Devices available to a plan, in an operator's notation.

2xcpu-x86:4GiB        two x86 devices (cores for one shard each), 4 GiB for each
8xcuda-sm90:80GiB@2   eight GPUs of 80 GiB on each of two nodes
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from cluster.errors import PlanError
from cluster.program import node

_UNITS = {
    "": 1,
    **{prefix: 10 ** (3 * power) for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}i": 2 ** (10 * power) for power, prefix in enumerate("KMGT", start=1)},
}
_FORM = re.compile(
    r"(?P<count>\d+)x(?P<target>cpu-x86|cuda-sm\d{2,3})"
    r"(:(?P<size>\d+(\.\d+)?)(?P<unit>[KMGT]?i?)B?)?(@(?P<nodes>\d+))?"
)


@dataclass(frozen=True)
class Device:
    """Device for one shard: a GPU, or the cores with which a shard computes."""

    target: str
    memory_bytes: int | None
    """Memory available to a shard; None: unlimited."""

    node: int


def parse_devices(text: str) -> tuple[Device, ...]:
    """Parse ``COUNTxTARGET[:MEMORY][@NODES]``, several joined by commas; PlanError if malformed.

    ``@NODES``: number of nodes with COUNT devices each; node numbers continue across groups.
    """
    devices: list[Device] = []
    for part in text.split(","):
        match = _FORM.fullmatch(part.strip())
        if match is None or match["unit"] not in (None, *_UNITS):
            raise PlanError(
                f"devices {part.strip()!r}: expected COUNTxTARGET[:MEMORY][@NODES], such as "
                "2xcpu-x86:4GiB or 8xcuda-sm90:80GiB@2"
            )
        count, nodes = int(match["count"]), int(match["nodes"] or 1)
        if count == 0 or nodes == 0:
            raise PlanError(f"devices {part.strip()!r}: expected at least 1 device and 1 node")
        memory = int(float(match["size"]) * _UNITS[match["unit"] or ""]) if match["size"] else None
        first = devices[-1].node + 1 if devices else 0
        devices += [
            Device(match["target"], memory, first + node)
            for node in range(nodes)
            for _ in range(count)
        ]
    return tuple(devices)


def this_machine(compute_threads: int, memory_bytes: int | None) -> tuple[Device, ...]:
    """Return this machine's CPU devices of ``compute_threads`` cores each.

    ``memory_bytes``: memory available to a shard; None: unlimited.
    """
    return (Device(node.targets()[-1], memory_bytes, 0),) * (node.cpus() // compute_threads)


def cores_of_this_machine() -> tuple[Device, ...]:
    """Return a CPU device per core of this machine, with an equal share of its memory."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return this_machine(1, memory_bytes // node.cpus())


def size_text(size_bytes: float) -> str:
    """Return a readable size: ``1.5 GiB``, ``83.0 MiB``, ``12 B``."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes:.0f} B"
