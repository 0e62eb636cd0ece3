"""CPU time and memory of a node's processes, from /proc.

processes(node, command, ...) ─→ Process ─→ cpu_s, ports
                                    └──────→ memory_bytes
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ray_nodes import Node

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """Process of a node."""

    pid: int
    command: str

    @property
    def cpu_s(self) -> float:
        """CPU time so far in seconds, including its ended children; 0 if it has ended."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return sum(map(int, fields[11:15])) * _TICK_S

    @property
    def ports(self) -> list[int]:
        """TCP ports on which it listens."""
        table = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        rows = [line.split() for line in table]
        listening = {row[9]: int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A"}
        open_files = {str(path.readlink()) for path in Path(f"/proc/{self.pid}/fd").iterdir()}
        return [port for inode, port in listening.items() if f"socket:[{inode}]" in open_files]


def memory_bytes(processes: Iterable[Process]) -> int:
    """Return the bytes that these processes need on a machine without others.

    Counted are private pages, and each page of a file once, although other nodes map it too.
    """
    private = 0
    of_files: dict[tuple[str, ...], int] = {}
    for process in processes:
        try:
            lines = Path(f"/proc/{process.pid}/smaps").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        mapping: tuple[str, ...] = ()
        resident = 0
        for line in lines:
            name, _, value = line.partition(":")
            if re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", line.split(maxsplit=1)[0]):
                fields = line.split()
                mapping = tuple(fields[2:5])  # offset, device, inode
            elif name == "Rss":
                resident = int(value.split()[0]) * 1024
            elif name == "Anonymous":
                anonymous = int(value.split()[0]) * 1024
                private += anonymous if mapping[2] != "0" else resident
                if mapping[2] != "0":
                    of_files[mapping] = max(of_files.get(mapping, 0), resident - anonymous)
    return private + sum(of_files.values())


def processes(node: Node, *commands: str) -> list[Process]:
    """Return a node's processes whose command line contains one of ``commands``; all without."""
    return [
        process
        for process in _all(node)
        if not commands or any(command in process.command for command in commands)
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
            continue  # it has ended since, or is not readable
