"""The devices that a plan may use, as an operator writes them down.

2xcpu-x86:4GiB        two x86 cores' worth of shards, 4 GiB for each
8xcuda-sm90:80GiB@2   eight GPUs of 80 GiB on each of two nodes
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.errors import PlanError
from cluster.program import node

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}  # fmt: skip
_FORM = re.compile(
    r"(?P<count>\d+)x(?P<target>cpu-x86|cuda-sm\d{2,3})"
    r"(:(?P<size>\d+(\.\d+)?)(?P<unit>[KMGT]?i?)B?)?(@(?P<nodes>\d+))?"
)


@dataclass(frozen=True)
class Device:
    """One place for a shard: a GPU, or the cores that one shard computes with."""

    target: str
    memory_bytes: int | None
    """What a shard may fill; None: no limit is known."""

    node: int


def parse_devices(written: str) -> tuple[Device, ...]:
    """``COUNTxTARGET[:MEMORY][@NODES]``, several joined by commas; PlanError if it is not that.

    ``@NODES``: so many nodes with COUNT devices each; nodes are counted on from group to group.
    """
    found: list[Device] = []
    for part in written.split(","):
        match = _FORM.fullmatch(part.strip())
        if match is None or match["unit"] not in (None, *_UNITS):
            raise PlanError(
                f"devices {part.strip()!r}: expected COUNTxTARGET[:MEMORY][@NODES], such as "
                "2xcpu-x86:4GiB or 8xcuda-sm90:80GiB@2"
            )
        count, nodes = int(match["count"]), int(match["nodes"] or 1)
        if count == 0 or nodes == 0:
            raise PlanError(f"devices {part.strip()!r} are none; give at least one")
        memory = int(float(match["size"]) * _UNITS[match["unit"] or ""]) if match["size"] else None
        first = found[-1].node + 1 if found else 0
        found += [
            Device(match["target"], memory, first + node)
            for node in range(nodes)
            for _ in range(count)
        ]
    return tuple(found)


def this_machine(compute_threads: int, memory_bytes: int | None) -> tuple[Device, ...]:
    """This machine's cores, so many for each device, and what a shard may fill there (None: no
    limit is known)."""
    return (Device(node.targets()[-1], memory_bytes, 0),) * (node.cpus() // compute_threads)


def size_text(size_bytes: float) -> str:
    """Bytes for people: ``1.5 GiB``, ``83.0 MiB``, ``12 B``."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes:.0f} B"
