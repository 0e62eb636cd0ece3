"""Frames between real processes: delivered unchanged, or a loud error."""

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
from support.wait import SOON_S

from cluster.errors import ProgramError, TransportError
from cluster.runtime import wire
from cluster.runtime.gloo import GlooTransport, Rendezvous
from cluster.runtime.transport import STOP, Frame
from cluster.tensors import DATATYPES


def filled(dtype: np.dtype, *shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape, dtype=int)) % 100).reshape(shape).astype(dtype)


FRAMES = [
    Frame(0, tuple(filled(dtype, 3, 5) for dtype in DATATYPES.values()), entered_at=12.25),
    Frame(1, stage_s=(0.25, 1e-6)),
    Frame(2, (), "refused: größer als 3 €", 1.5),
    Frame(2, (), "index 7 is out of range", refuses_input=True),
    Frame(3, (), "long " * 20_000),
    *(Frame(4, (filled(np.dtype("f4"), batch, 512),)) for batch in (1, 2, 7, 8, 64, 3)),
    Frame(
        5, (filled(np.dtype("f4"), 0, 4), filled(np.dtype("i8")), filled(np.dtype("?"), 2, 0, 3))
    ),
    Frame(6, (filled(np.dtype("f2"), 50, 64000), filled(np.dtype("i8"), 50, 1))),
    Frame(7, tuple(filled(np.dtype("u1"), n, 33) for n in range(1200))),
    Frame(8, (filled(np.dtype("u1"), 16 * 1024 - 128),)),
    *(Frame(9, (filled(np.dtype("u1"), 16 * 1024 - n),)) for n in (0, 4, 32, 63, 64, 65)),
    Frame(2**40, (filled(np.dtype("f8"), 1, 2, 3, 4, 5, 6),)),
]


def assert_same(frame: Frame, sent: Frame) -> None:
    for name in ("number", "error", "entered_at", "stage_s", "refuses_input"):
        assert getattr(frame, name) == getattr(sent, name)
    assert len(frame.arrays) == len(sent.arrays)
    for array, expected in zip(frame.arrays, sent.arrays, strict=True):
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.flags.writeable
        np.testing.assert_array_equal(array, expected)


def test_all_frames_arrive_unchanged() -> None:
    with peers(bodies.echo, 1) as (transport, (process,)):
        for sent in FRAMES:
            transport.send(1, sent)
            assert_same(transport.receive(1), sent)
        transport.send(1, Frame(STOP))
        assert transport.receive(1).stops
        process.join(5)
        assert process.exitcode == 0


def test_frames_keep_order_with_concurrent_send_and_receive() -> None:
    sent = [frame for _ in range(20) for frame in FRAMES]
    with peers(bodies.echo, 1) as (transport, _):
        thread = threading.Thread(target=lambda: [transport.send(1, frame) for frame in sent])
        thread.start()
        for frame in sent:
            assert_same(transport.receive(1), frame)
        thread.join()


def test_all_frames_arrive_without_shared_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As on two nodes: neither side maps the other's memory, so all bytes go over the pair.
    monkeypatch.setattr("cluster.runtime.gloo.reaches", lambda address: False)
    with peers(bodies.echo_alone, 1) as (transport, _):
        assert not transport._readers
        assert not transport._borrowers
        for sent in FRAMES:
            transport.send(1, sent)
            assert_same(transport.receive(1), sent)


def test_large_arrays_reuse_shared_memory_on_one_node() -> None:
    with peers(bodies.echo, 1) as (transport, _):
        for value in range(20):
            transport.send(1, Frame(value, (np.full(100_000, value),)))
            assert (transport.receive(1).arrays[0] == value).all()
        assert 1 <= len(transport._lender._slots) <= 3


def test_concurrent_sends_to_one_peer_do_not_interleave() -> None:
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


def test_frames_sent_before_close_arrive_before_error() -> None:
    with peers(bodies.flood, 1, 50) as (transport, _):
        for number in range(50):
            frame = transport.receive(1)
            assert frame.number == number
            assert (frame.arrays[0] == number).all()
        with pytest.raises(TransportError, match="rank 1 is unavailable"):
            transport.receive(1)
        with pytest.raises(TransportError, match="rank 1 is unavailable"):
            transport.send(1, Frame(0))


def test_frame_survives_close_of_its_sender_during_receive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with peers(bodies.flood, 1, 1) as (transport, (process,)):

        def after_sender_ended(*args: object) -> object:
            process.join(20)
            return arrays_of(*args)

        arrays_of = wire.arrays_of
        monkeypatch.setattr(wire, "arrays_of", after_sender_ended)
        assert transport.receive(1).number == 0
        assert process.exitcode == 0
        with pytest.raises(TransportError, match="rank 1 is unavailable"):
            transport.receive(1)


def test_read_only_arrays_are_sent_without_warning_or_change() -> None:
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
def test_receive_fails_soon_after_peer_kill(waiting: bool) -> None:
    with peers(bodies.silent, 2) as (transport, processes):
        killed = threading.Timer(0.2 if waiting else 0, processes[0].kill)
        killed.start()
        if not waiting:
            killed.join()
            processes[0].join()
        started = time.monotonic()
        with pytest.raises(TransportError, match="rank 1 is unavailable"):
            transport.receive(1)
        assert time.monotonic() - started < SOON_S


def test_receive_fails_when_peer_dies_during_frame() -> None:
    with peers(bodies.dying, 1) as (transport, _):
        transport.send(1, Frame(0, (np.zeros(100),)))
        with pytest.raises(TransportError, match="rank 1 is unavailable"):
            transport.receive(1)


def test_loss_of_one_peer_leaves_others_connected() -> None:
    with peers(bodies.echo, 2) as (transport, processes):
        processes[0].kill()
        with pytest.raises(TransportError):
            transport.receive(1)
        for sent in FRAMES[:5]:
            transport.send(2, sent)
            assert_same(transport.receive(2), sent)


@pytest.mark.parametrize("peer_lost", [True, False])
def test_close_wakes_local_threads_and_rejects_later_calls(peer_lost: bool) -> None:
    with peers(bodies.silent, 2) as (transport, processes):
        if peer_lost:  # a lost peer does not keep the pair with the other one open
            processes[0].kill()
            processes[0].join()
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                transport.receive(2)
            except TransportError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        transport.close()
        thread.join(2)
        assert "this transport was closed" in str(errors[0])
        transport.close()
        for call in (lambda: transport.receive(2), lambda: transport.send(2, Frame(0))):
            with pytest.raises(TransportError, match="closed"):
                call()


def test_close_abandons_frozen_peer() -> None:
    with peers(bodies.silent, 1) as (transport, (process,)):
        os.kill(process.pid, signal.SIGSTOP)
        transport.send(1, Frame(0, (np.zeros(1_000_000),)))
        started = time.monotonic()
        transport.close()
        assert time.monotonic() - started < SOON_S


def test_sub_group_reduces_and_fails_on_member_loss() -> None:
    with peers(bodies.summing, 2) as (transport, _):
        for rank in (1, 2):
            assert transport.receive(rank).arrays[0].tolist() == [3, 3, 3]
        transport.send(1, Frame(0))
        started = time.monotonic()
        assert transport.receive(2).error is not None
        assert time.monotonic() - started < SOON_S


def test_transport_rejects_foreign_groups_and_unknown_peers() -> None:
    with peers(bodies.silent, 1) as (transport, _):
        for ranks in ([1], [0, 0]):
            with pytest.raises(ValueError, match="expected rank 0 in it"):
                transport.sub_group(ranks)
        for peer in (0, 2, -1):
            with pytest.raises(ValueError, match="no peer"):
                transport.send(peer, Frame(0))


def test_start_fails_when_peer_is_missing_after_timeout() -> None:
    rendezvous = Rendezvous(IP)
    started = time.monotonic()
    with pytest.raises(TransportError, match=r"ranks \[0, 1, 2\] joined within 0.5 s.*their logs"):
        GlooTransport(rendezvous.address, 0, 3, IP, start_timeout_s=0.5)
    assert time.monotonic() - started < SOON_S
    rendezvous.close()


def test_rendezvous_listens_on_one_address_until_closed() -> None:
    rendezvous = Rendezvous("127.0.0.2")
    host, port = rendezvous.address.host, rendezvous.address.port
    socket.create_connection((host, port), 1).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)
    rendezvous.close()
    with pytest.raises(TransportError, match="no answer"):
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
def test_frame_rejects_unsupported_arrays(array: np.ndarray) -> None:
    with pytest.raises(ProgramError, match="cannot be sent between shards"):
        Frame(0, (array,))


def test_runtime_modules_do_not_import_torch() -> None:
    modules = "gloo", "shard", "shard_group", "topology", "transport", "batcher"
    imported = "; ".join(f"import cluster.runtime.{module}" for module in modules)
    code = f"import sys; {imported}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
