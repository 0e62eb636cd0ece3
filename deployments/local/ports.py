"""TCP ports of this machine: free ones, and the process that holds one that is not."""

from __future__ import annotations

import os
import random
import socket
import time
from pathlib import Path

from cluster.errors import ClusterError
from deployments.local.processes import is_ending, open_files

PORT_RANGE = range(20000, 30000)
"""Below the ports the kernel lends to outgoing connections, which could take a port between its
choice and its use, and between Ray's own (10002-19999) and Serve's replicas' (30000-31000)."""

_LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp
_UNSEEN = "a process that is ending, or one in another container"
_CLOSING_S = 10.0  # of a killed process: it has no files any more, its sockets still close
_POLL_S = 0.05


def free_ports(count: int) -> list[int]:
    """``count`` different ports that nobody listens on, from :data:`PORT_RANGE`."""
    ports: list[int] = []
    # In random order, so that two clusters that start at once do not reach for the same ones.
    for port in random.sample(PORT_RANGE, len(PORT_RANGE)):
        if len(ports) == count:
            break
        if _refusal(port) is None:
            ports.append(port)
    if len(ports) < count:
        raise ClusterError(
            f"only {len(ports)} of {count} ports are free in {PORT_RANGE.start}-"
            f"{PORT_RANGE.stop - 1}; stop something that listens there"
        )
    return ports


def require_free(port: int, purpose: str) -> None:
    """Raise :class:`ClusterError`, naming the holder, if ``port`` cannot be listened on.

    A holder that is ending is waited for.
    """
    deadline = time.monotonic() + _CLOSING_S
    while (refusal := _refusal(port)) is not None:
        found = holder(port)
        if found is None and _refusal(port) is None:  # closed between the two looks
            return
        if found != _UNSEEN or time.monotonic() > deadline:
            raise ClusterError(
                f"port {port} ({purpose}) is not free: {found or refusal}; "
                "stop that or choose another port"
            )
        time.sleep(_POLL_S)


def _refusal(port: int) -> str | None:
    """Why the kernel would not let a server listen on ``port``; None if it would."""
    with socket.socket() as probe:
        # Connections of an earlier server that are still closing do not count as holders.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # On all addresses: that is refused for a port which any single address holds.
            probe.bind(("", port))
        except OSError as error:
            return error.strerror
    return None


def holder(port: int) -> str | None:
    """``"NAME (pid PID)"`` of the process that listens on ``port``; None if nobody listens.

    One that cannot be looked into is told as ``"a process of another user"``, or, if the socket is
    this user's, as one that is ending or runs in another container.
    """
    listening = _listening(port)
    if not listening:
        return None
    links = {f"socket:[{inode}]" for inode in listening}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        pid = int(process.name)
        try:
            if not links.isdisjoint(open_files(pid)):
                name = (process / "comm").read_text().strip()
                return _UNSEEN if is_ending(pid) else f"{name} (pid {pid})"
        except OSError:
            continue  # it has ended, or is another user's
    return _UNSEEN if set(listening.values()) == {os.getuid()} else "a process of another user"


def _listening(port: int) -> dict[str, int]:
    """Inode → user of each socket that listens on ``port``."""
    found = {}
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        if not path.exists():  # a kernel without IPv6
            continue
        for line in path.read_text().splitlines()[1:]:
            # number, local address:port, remote address:port, state, ..., the eighth is the user,
            # the tenth the inode
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found[fields[9]] = int(fields[7])
    return found
