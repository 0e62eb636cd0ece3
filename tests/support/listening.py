"""Which TCP ports the processes of a local cluster listen on, and which of them beyond loopback."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deployments.local import LocalCluster, processes

REPLICA = "ray::ServeReplica:"


@dataclass(frozen=True)
class Socket:
    """One listening TCP socket, and whose it is."""

    process: str
    """What the process calls itself, at most 15 characters of it where it says nothing."""
    pid: int
    port: int
    loopback: bool


def listening(pid: int) -> list[tuple[bool, int]]:
    """Whether each listening TCP socket of a process is on loopback, and its port."""
    links = set(processes.open_files(pid))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                address, _, port = fields[1].partition(":")
                # Four bytes at a time, each in this machine's order; IPv4 is mapped into IPv6.
                words = bytes.fromhex(address)
                last = words[-4:][::-1]
                loopback = last[0] == 127 or address == "00000000000000000000000001000000"
                found.append((loopback, int(port, 16)))
    return found


def sockets(cluster: LocalCluster) -> list[Socket]:
    """Those of all processes of a cluster."""
    found = processes.find(cluster.record.cluster_id, cluster.record.run_dir)
    return [
        Socket(_name(process), process.pid, port, loopback)
        for process in found
        for loopback, port in listening(process.pid)
    ]


def assert_only_replicas_listen_beyond_loopback(cluster: LocalCluster) -> list[int]:
    """Each replica with one port, where Serve takes calls of other deployments, for which it has
    no address setting, and nothing else; the pids of the replicas."""
    everywhere = [each for each in sockets(cluster) if not each.loopback]
    found = processes.find(cluster.record.cluster_id, cluster.record.run_dir)
    replicas = sorted(process.pid for process in found if _name(process).startswith(REPLICA))
    assert sorted(each.pid for each in everywhere) == replicas, everywhere
    return replicas


def _name(process: processes.Process) -> str:
    line = Path(f"/proc/{process.pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
    return line if line.startswith("ray::") else process.name
