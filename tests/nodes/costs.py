"""What the processes of a node cost, as the kernel counts it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ray_nodes import Node

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One process of a node."""

    pid: int
    command: str

    @property
    def cpu_s(self) -> float:
        """Seconds of a core that it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    @property
    def ports(self) -> list[int]:
        """The TCP ports that it listens on."""
        table = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        rows = [line.split() for line in table]
        listening = {row[9]: int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A"}
        open_files = {str(path.readlink()) for path in Path(f"/proc/{self.pid}/fd").iterdir()}
        return [port for inode, port in listening.items() if f"socket:[{inode}]" in open_files]

    @property
    def memory_bytes(self) -> int:
        """Its own memory, and its share of what it has in common with others (Pss)."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return 0


def processes(node: Node, *commands: str) -> list[Process]:
    """A node's processes whose command line has one of these in it; all if none is given."""
    return [
        each
        for each in _all(node)
        if not commands or any(command in each.command for command in commands)
    ]


def _all(node: Node) -> Iterator[Process]:
    first = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text().strip()
    namespace = Path(f"/proc/{first}/ns/pid").readlink()
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and (path / "ns/pid").readlink() == namespace:
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ")
                yield Process(int(path.name), command.decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended meanwhile, or is nobody's to look at
