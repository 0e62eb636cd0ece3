"""What the processes of a node cost, as the kernel counts it."""

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
    """One process of a node."""

    pid: int
    command: str

    @property
    def cpu_s(self) -> float:
        """Seconds of a core that it has used so far, with those of its children that have ended;
        0 if it has ended itself."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return sum(map(int, fields[11:15])) * _TICK_S

    @property
    def ports(self) -> list[int]:
        """The TCP ports that it listens on."""
        table = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        rows = [line.split() for line in table]
        listening = {row[9]: int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A"}
        open_files = {str(path.readlink()) for path in Path(f"/proc/{self.pid}/fd").iterdir()}
        return [port for inode, port in listening.items() if f"socket:[{inode}]" in open_files]


def memory_bytes(processes: Iterable[Process]) -> int:
    """What these processes need where nobody else runs: pages of their own, and each page of a
    file once, though the other nodes here have it mapped, too."""
    own = 0
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
                own += anonymous if mapping[2] != "0" else resident
                if mapping[2] != "0":
                    of_files[mapping] = max(of_files.get(mapping, 0), resident - anonymous)
    return own + sum(of_files.values())


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
