"""Frames between real processes arrive as they were sent, or not at all and loudly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import shard_processes as bodies
from shard_processes import IP, peers

from cluster.errors import ProgramError, TransportError
from cluster.runtime import wire
from cluster.runtime.gloo import GlooTransport, Rendezvous
from cluster.runtime.transport import STOP, Frame
from cluster.tensors import DATATYPES


def made(dtype: np.dtype, *shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape, dtype=int)) % 100).reshape(shape).astype(dtype)


FRAMES = [
    Frame(0, tuple(made(dtype, 3, 5) for dtype in DATATYPES.values()), entered_at=12.25),
    Frame(1, stage_s=(0.25, 1e-6)),
    Frame(2, (), "refused: größer als 3 €", 1.5),
    Frame(3, (), "long " * 20_000),
    *(Frame(4, (made(np.dtype("f4"), batch, 512),)) for batch in (1, 2, 7, 8, 64, 3)),
    Frame(5, (made(np.dtype("f4"), 0, 4), made(np.dtype("i8")), made(np.dtype("?"), 2, 0, 3))),
    Frame(6, (made(np.dtype("f2"), 50, 64000), made(np.dtype("i8"), 50, 1))),
    Frame(7, tuple(made(np.dtype("u1"), n, 33) for n in range(1200))),
    Frame(8, (made(np.dtype("u1"), 16 * 1024 - 128),)),
    *(Frame(9, (made(np.dtype("u1"), 16 * 1024 - n),)) for n in (0, 4, 32, 63, 64, 65)),
    Frame(2**40, (made(np.dtype("f8"), 1, 2, 3, 4, 5, 6),)),
]


def same(frame: Frame, sent: Frame) -> None:
    assert (frame.number, frame.error, frame.entered_at, frame.stage_s) == (
        sent.number, sent.error, sent.entered_at, sent.stage_s,
    )  # fmt: skip
    assert len(frame.arrays) == len(sent.arrays)
    for array, given in zip(frame.arrays, sent.arrays, strict=True):
        assert (array.dtype, array.shape) == (given.dtype, given.shape)
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.flags.writeable
        np.testing.assert_array_equal(array, given)


def test_every_kind_of_frame_arrives_as_it_was_sent() -> None:
    with peers(bodies.echo, 1) as (transport, (process,)):
        for sent in FRAMES:
            transport.send(1, sent)
            same(transport.receive(1), sent)
        transport.send(1, Frame(STOP))
        assert transport.receive(1).stops
        process.join(5)
        assert process.exitcode == 0


def test_many_frames_under_way_keep_their_order_while_threads_send_and_receive() -> None:
    sent = [frame for _ in range(20) for frame in FRAMES]
    with peers(bodies.echo, 1) as (transport, _):
        thread = threading.Thread(target=lambda: [transport.send(1, each) for each in sent])
        thread.start()
        for each in sent:
            same(transport.receive(1), each)
        thread.join()


def test_peers_that_share_no_memory_get_every_kind_of_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As on two nodes: neither end maps the other's memory, so all bytes go over the pair.
    monkeypatch.setattr("cluster.runtime.gloo.reaches", lambda address: False)
    with peers(bodies.echo_alone, 1) as (transport, _):
        assert not transport._readers
        assert not transport._borrowers
        for sent in FRAMES:
            transport.send(1, sent)
            same(transport.receive(1), sent)


def test_large_arrays_between_neighbours_go_through_memory_that_is_used_again() -> None:
    with peers(bodies.echo, 1) as (transport, _):
        for value in range(20):
            transport.send(1, Frame(value, (np.full(100_000, value),)))
            assert (transport.receive(1).arrays[0] == value).all()
        assert 1 <= len(transport._lender._slots) <= 3


def test_threads_that_send_to_one_peer_do_not_mix_their_frames() -> None:
    def send(value: int) -> None:
        for _ in range(40):
            transport.send(1, Frame(value, (np.full(30_000 * value, value), np.full(3, value))))

    with peers(bodies.echo, 1) as (transport, _):
        threads = [threading.Thread(target=send, args=(value,)) for value in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for _ in range(120):
            frame = transport.receive(1)
            for array in frame.arrays:
                assert (array == frame.number).all()
        for thread in threads:
            thread.join()


def test_what_was_sent_before_closing_arrives_and_then_the_peer_is_gone() -> None:
    with peers(bodies.flood, 1, 50) as (transport, _):
        for number in range(50):
            frame = transport.receive(1)
            assert frame.number == number
            assert (frame.arrays[0] == number).all()
        with pytest.raises(TransportError, match="rank 1 is gone"):
            transport.receive(1)
        with pytest.raises(TransportError, match="rank 1 is gone"):
            transport.send(1, Frame(0))


def test_a_frame_whose_sender_closed_while_it_was_read_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with peers(bodies.flood, 1, 1) as (transport, (process,)):

        def once_it_ended(*args: object) -> object:
            process.join(20)
            return arrays_of(*args)

        arrays_of = wire.arrays_of
        monkeypatch.setattr(wire, "arrays_of", once_it_ended)
        assert transport.receive(1).number == 0
        assert process.exitcode == 0
        with pytest.raises(TransportError, match="rank 1 is gone"):
            transport.receive(1)


def test_arrays_nobody_may_write_to_are_sent_in_silence_and_left_alone() -> None:
    large = np.frombuffer(bytes(400_000), np.float32)
    small = np.ones(3, np.float32)
    small.flags.writeable = False
    with peers(bodies.echo_doubled, 1) as (transport, _), warnings.catch_warnings():
        warnings.simplefilter("error")
        transport.send(1, Frame(0, (large, small)))
        assert transport.receive(1).arrays[1].tolist() == [2, 2, 2]
    assert not large.any()
    assert small.tolist() == [1, 1, 1]


@pytest.mark.parametrize("waiting", [True, False])
def test_a_killed_peer_is_noticed_within_a_second(waiting: bool) -> None:
    with peers(bodies.silent, 2) as (transport, processes):
        killed = threading.Timer(0.2 if waiting else 0, processes[0].kill)
        killed.start()
        if not waiting:
            killed.join()
            processes[0].join()
        started = time.monotonic()
        with pytest.raises(TransportError, match="rank 1 is gone"):
            transport.receive(1)
        assert time.monotonic() - started < 1.2


def test_a_peer_that_dies_during_a_frame_is_noticed() -> None:
    with peers(bodies.dying, 1) as (transport, _):
        transport.send(1, Frame(0, (np.zeros(100),)))
        with pytest.raises(TransportError, match="rank 1 is gone"):
            transport.receive(1)


def test_the_loss_of_one_peer_leaves_the_others_connected() -> None:
    with peers(bodies.echo, 2) as (transport, processes):
        processes[0].kill()
        with pytest.raises(TransportError):
            transport.receive(1)
        for sent in FRAMES[:5]:
            transport.send(2, sent)
            same(transport.receive(2), sent)


@pytest.mark.parametrize("lost", [True, False])
def test_closing_wakes_our_own_threads_and_refuses_what_comes_after(lost: bool) -> None:
    with peers(bodies.silent, 2) as (transport, processes):
        if lost:  # a peer that is gone does not keep the pair with the other one open
            processes[0].kill()
            processes[0].join()
        found: list[BaseException] = []

        def wait() -> None:
            try:
                transport.receive(2)
            except TransportError as error:
                found.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        transport.close()
        thread.join(2)
        assert "this transport was closed" in str(found[0])
        transport.close()
        for call in (lambda: transport.receive(2), lambda: transport.send(2, Frame(0))):
            with pytest.raises(TransportError, match="closed"):
                call()


def test_closing_gives_a_frozen_peer_up() -> None:
    with peers(bodies.silent, 1) as (transport, (process,)):
        os.kill(process.pid, signal.SIGSTOP)
        transport.send(1, Frame(0, (np.zeros(1_000_000),)))
        started = time.monotonic()
        transport.close()
        assert time.monotonic() - started < 4


def test_a_group_of_peers_reduces_and_notices_the_loss_of_a_member() -> None:
    with peers(bodies.summing, 2) as (transport, _):
        for rank in (1, 2):
            assert transport.receive(rank).arrays[0].tolist() == [3, 3, 3]
        transport.send(1, Frame(0))
        started = time.monotonic()
        assert transport.receive(2).error is not None
        assert time.monotonic() - started < 1


def test_a_group_one_does_not_belong_to_is_refused() -> None:
    with peers(bodies.silent, 1) as (transport, _):
        for ranks in ([1], [0, 0]):
            with pytest.raises(ValueError, match="rank 0 asks for a group"):
                transport.sub_group(ranks)
        for peer in (0, 2, -1):
            with pytest.raises(ValueError, match="no peer"):
                transport.send(peer, Frame(0))


def test_a_peer_that_never_comes_is_an_error_after_the_start_timeout() -> None:
    rendezvous = Rendezvous(IP)
    started = time.monotonic()
    with pytest.raises(TransportError, match=r"ranks \[0, 1, 2\] came within 0.5 s.*their logs"):
        GlooTransport(rendezvous.address, 0, 3, IP, start_timeout_s=0.5)
    assert time.monotonic() - started < 3
    rendezvous.close()


def test_the_rendezvous_listens_on_one_address_and_on_nothing_once_closed() -> None:
    rendezvous = Rendezvous("127.0.0.2")
    host, port = rendezvous.address.host, rendezvous.address.port
    socket.create_connection((host, port), 1).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)
    rendezvous.close()
    with pytest.raises(TransportError, match="nothing answers there"):
        GlooTransport(rendezvous.address, 1, 2, IP, start_timeout_s=0.3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.float32)[:, ::2],
        np.array([object()]),
        np.array(["text"]),
        np.zeros(2, ">f4"),
        np.zeros(2, np.complex64),
    ],
)
def test_arrays_that_cannot_travel_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ProgramError, match="cannot travel between shards"):
        Frame(0, (array,))


def test_torch_is_imported_only_by_a_replica_that_has_shards() -> None:
    modules = "gloo", "in_process", "shard", "shard_group", "topology", "transport", "batcher"
    imported = "; ".join(f"import cluster.runtime.{each}" for each in modules)
    code = f"import sys; {imported}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
