"""Listening TCP ports of a local cluster's processes, on loopback and beyond.

/proc/PID/fd, /proc/PID/net/tcp ─→ listening(pid) ─→ sockets(cluster) ─→ assertion
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from deployments.local import LocalCluster, processes

REPLICA = "ray::ServeReplica:"


@dataclass(frozen=True)
class Socket:
    """Listening TCP socket and its process."""

    process: str
    """Title of the process; without one, its name of at most 15 characters."""
    pid: int
    port: int
    loopback: bool


def listening(pid: int) -> list[tuple[bool, int]]:
    """Return (on loopback, port) of each listening TCP socket of a process on this machine."""
    links = set(processes.open_files(pid))
    ports = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                address, _, port = fields[1].partition(":")
                # Words of four bytes in this machine's byte order; IPv4 is mapped into IPv6.
                words = bytes.fromhex(address)
                last = words[-4:][::-1]
                loopback = last[0] == 127 or address == "00000000000000000000000001000000"
                ports.append((loopback, int(port, 16)))
    return ports


def sockets(cluster: LocalCluster) -> list[Socket]:
    """Return the listening sockets of all processes of a cluster."""
    running = processes.find(cluster.record.cluster_id, cluster.record.run_dir)
    return [
        Socket(_name(process), process.pid, port, loopback)
        for process in running
        for loopback, port in listening(process.pid)
    ]


def assert_only_replicas_listen_beyond_loopback(cluster: LocalCluster) -> list[int]:
    """Check that only replicas listen beyond loopback, on one port each; return their pids.

    On that port Serve takes calls of other deployments; it has no setting for the address.
    """
    everywhere = [socket for socket in sockets(cluster) if not socket.loopback]
    running = processes.find(cluster.record.cluster_id, cluster.record.run_dir)
    replicas = sorted(process.pid for process in running if _name(process).startswith(REPLICA))
    assert sorted(socket.pid for socket in everywhere) == replicas, everywhere
    return replicas


def _name(process: processes.Process) -> str:
    try:
        title = " ".join(psutil.Process(process.pid).cmdline()).rstrip()  # a title is padded
    except psutil.NoSuchProcess:  # ended since it was listed
        return process.name
    return title if title.startswith("ray::") else process.name
