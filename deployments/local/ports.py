"""TCP ports of this machine: free ports, and the holders of busy ones."""

from __future__ import annotations

import os
import random
import socket
import time
from pathlib import Path

import psutil

from cluster.errors import ClusterError
from deployments.local.processes import is_ending

PORT_RANGE = range(20000, 30000)
"""Range of chosen ports.

It is below the kernel's ephemeral ports, which an outgoing connection could take between choice and
use, and between the ports of Ray (10002-19999) and of Serve's replicas (30000-31000)."""

_LISTEN = "0A"  # state of a listening socket in /proc/net/tcp
_UNSEEN = "a process that is ending, or one in another container"
_CLOSING_S = 10.0  # sockets of a killed process close some time after its files
_POLL_S = 0.05


def free_ports(count: int) -> list[int]:
    """Return ``count`` different free ports from :data:`PORT_RANGE`."""
    ports: list[int] = []
    # In random order, so that two clusters that start at once choose different ones.
    for port in random.sample(PORT_RANGE, len(PORT_RANGE)):
        if len(ports) == count:
            break
        if _refusal(port) is None:
            ports.append(port)
    if len(ports) < count:
        raise ClusterError(
            f"only {len(ports)} of {count} ports are free in {PORT_RANGE.start}-"
            f"{PORT_RANGE.stop - 1}; stop a process that listens there"
        )
    return ports


def require_free(port: int, purpose: str) -> None:
    """Raise :class:`ClusterError` with the holder's name if ``port`` is busy.

    Waits for a holder that is ending.
    """
    deadline = time.monotonic() + _CLOSING_S
    while (refusal := _refusal(port)) is not None:
        listener = holder(port)
        if listener is None and _refusal(port) is None:  # closed between the two checks
            return
        if listener != _UNSEEN or time.monotonic() > deadline:
            raise ClusterError(
                f"port {port} ({purpose}) is not free: {listener or refusal}; "
                "stop that process or choose another port"
            )
        time.sleep(_POLL_S)


def _refusal(port: int) -> str | None:
    """Return the kernel's error for a server on ``port``; None if it is free."""
    with socket.socket() as probe:
        # Closing connections of an earlier server do not count as holders.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # On all addresses: this fails if the port is busy on any single address.
            probe.bind(("", port))
        except OSError as error:
            return error.strerror
    return None


def holder(port: int) -> str | None:
    """Return ``"NAME (pid PID)"`` of the process that listens on ``port``; None if none does.

    A process of another user has no name here. A socket of this user without a visible process
    belongs to one that is ending, or that runs in another container.
    """
    for pid in _listeners(port):
        try:
            name = psutil.Process(pid).name()
        except psutil.NoSuchProcess:
            continue
        return _UNSEEN if is_ending(pid) else f"{name} (pid {pid})"
    users = _users(port)
    if not users:
        return None
    return _UNSEEN if users == {os.getuid()} else "a process of another user"


def _listeners(port: int) -> set[int]:
    """Return the visible processes that listen on ``port``."""
    return {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr
        and connection.laddr.port == port
        and connection.pid is not None
    }


def _users(port: int) -> set[int]:
    """Return the users of the sockets that listen on ``port``; psutil knows only processes."""
    users = set()
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        if not path.exists():  # a kernel without IPv6
            continue
        for line in path.read_text().splitlines()[1:]:
            # number, local address:port, remote address:port, state, ...; the eighth is the user
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                users.add(int(fields[7]))
    return users
