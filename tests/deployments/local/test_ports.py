"""Holders of TCP ports, and the wait for one that is ending."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from cluster.errors import ClusterError
from deployments.local import ports


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def hide_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all processes, as a killed one is whose sockets close after its files."""
    monkeypatch.setattr(ports, "_listeners", lambda port: set())


def test_error_names_holder(listener: socket.socket) -> None:
    with pytest.raises(
        ClusterError, match=rf"\(HTTP\) is not free: .+ \(pid {os.getpid()}\); stop"
    ):
        ports.require_free(port_of(listener), "HTTP")


def test_require_free_waits_for_ending_holder(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_processes(monkeypatch)
    closing = threading.Timer(0.3, listener.close)
    closing.start()
    try:
        ports.require_free(port_of(listener), "HTTP")
        assert listener.fileno() == -1
    finally:
        closing.join()


def test_require_free_stops_waiting_for_hidden_holder(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_processes(monkeypatch)
    monkeypatch.setattr(ports, "_CLOSING_S", 0.1)
    with pytest.raises(ClusterError, match="is ending, or one in another container; stop that"):
        ports.require_free(port_of(listener), "HTTP")


def test_require_free_rejects_port_of_other_user(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_processes(monkeypatch)
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    with pytest.raises(ClusterError, match="not free: a process of another user; stop"):
        ports.require_free(port_of(listener), "HTTP")


def test_require_free_rejects_bound_port() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ClusterError, match="is not free: Address already in use"):
            ports.require_free(port_of(bound), "HTTP")


def test_require_free_accepts_free_port(listener: socket.socket) -> None:
    port = port_of(listener)
    listener.close()
    ports.require_free(port, "HTTP")
    assert ports.holder(port) is None
