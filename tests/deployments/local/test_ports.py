"""Ports that are not free, and who holds them."""

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


def hide_all_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a killed process, whose files are gone while its sockets still close."""
    monkeypatch.setattr(ports, "open_files", lambda pid: iter(()))


def test_the_holder_is_named(listener: socket.socket) -> None:
    with pytest.raises(
        ClusterError, match=rf"\(HTTP\) is not free: .+ \(pid {os.getpid()}\); stop"
    ):
        ports.require_free(port_of(listener), "HTTP")


def test_a_holder_that_is_ending_is_waited_for(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_all_files(monkeypatch)
    closing = threading.Timer(0.3, listener.close)
    closing.start()
    try:
        ports.require_free(port_of(listener), "HTTP")
        assert listener.fileno() == -1
    finally:
        closing.join()


def test_a_holder_that_nobody_sees_is_not_waited_for_for_ever(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_all_files(monkeypatch)
    monkeypatch.setattr(ports, "_CLOSING_S", 0.1)
    with pytest.raises(ClusterError, match="is ending, or one in another container; stop that"):
        ports.require_free(port_of(listener), "HTTP")


def test_another_users_holder_is_told_at_once(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_all_files(monkeypatch)
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    with pytest.raises(ClusterError, match="not free: a process of another user; stop"):
        ports.require_free(port_of(listener), "HTTP")


def test_a_port_that_is_bound_but_not_listened_on_is_refused() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ClusterError, match="is not free: Address already in use"):
            ports.require_free(port_of(bound), "HTTP")


def test_a_free_port_passes(listener: socket.socket) -> None:
    port = port_of(listener)
    listener.close()
    ports.require_free(port, "HTTP")
    assert ports.holder(port) is None
