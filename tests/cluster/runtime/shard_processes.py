"""Processes for tests of the transport, forked in milliseconds from one that has torch loaded.

No process outlives its test, nor the test's process: the kernel kills it with its parent.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from cluster.errors import ProgramError
from cluster.runtime import gloo
from cluster.runtime.gloo import Address, GlooTransport, Rendezvous
from cluster.runtime.shard import ShardLoop
from cluster.runtime.topology import Topology
from cluster.runtime.transport import Frame

IP = "127.0.0.1"
START_S = 20.0
"""Timeout in seconds. Connecting takes milliseconds; the first process, with torch, seconds."""

_PR_SET_PDEATHSIG = 1
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "shard_processes"])

Body = Callable[..., None]
"""Function run in the process, with its connected transport and the test's arguments."""


@contextmanager
def peers(body: Body, count: int, *arguments: Any) -> Iterator[tuple[GlooTransport, list]]:
    """Yield the test's transport, rank 0, and ``count`` processes that run ``body``."""
    rendezvous = Rendezvous(IP)
    processes: list[BaseProcess] = [
        _CONTEXT.Process(
            target=_start, args=(body, rendezvous.address, rank, count + 1, arguments), daemon=True
        )
        for rank in range(1, count + 1)
    ]
    transport = None
    try:
        for process in processes:
            process.start()
        transport = GlooTransport(rendezvous.address, 0, count + 1, IP, START_S)
        yield transport, processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        if transport:
            transport.close()
        rendezvous.close()


def _start(body: Body, address: Address, rank: int, size: int, arguments: tuple) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    import torch

    torch.set_num_threads(1)
    if body is echo_alone:  # before the connection
        gloo.reaches = lambda address: False  # type: ignore[assignment]
    body(GlooTransport(address, rank, size, IP, START_S), *arguments)


# ------------------------------------------------------------------------------ bodies


def echo(transport: GlooTransport) -> None:
    """Send every frame back to rank 0, until a stop frame."""
    while not (frame := transport.receive(0)).stops:
        transport.send(0, frame)
    transport.send(0, frame)
    transport.close()


def echo_alone(transport: GlooTransport) -> None:
    """Echo as :func:`echo`, in a process that cannot map the memory of others."""
    echo(transport)


def echo_doubled(transport: GlooTransport) -> None:
    """Send all arrays back doubled in place: the receiver owns them."""
    while not (frame := transport.receive(0)).stops:
        for array in frame.arrays:
            array *= 2
        transport.send(0, frame)
    transport.close()


def flood(transport: GlooTransport, count: int) -> None:
    """Send ``count`` frames at once, close and exit."""
    for number in range(count):
        transport.send(0, Frame(number, (np.full((number % 7, 3), number),)))
    transport.close()


def silent(transport: GlooTransport) -> None:
    """Stay connected and idle."""
    time.sleep(60)


def dying(transport: GlooTransport) -> None:
    """Exit as a killed process does, on the first frame."""
    transport.receive(0)
    os.kill(os.getpid(), signal.SIGKILL)


def summing(transport: GlooTransport) -> None:
    """Sum within the group of all peers, and send the result to rank 0."""
    import torch

    group = transport.sub_group(range(1, transport.size))
    values = torch.full((3,), float(transport.rank))
    group.allreduce([values]).wait()
    transport.send(0, Frame(transport.rank, (values.numpy(),)))
    try:
        if transport.rank == 1:
            transport.receive(0)  # the others wait for this rank until then
            os.kill(os.getpid(), signal.SIGKILL)
        group.allreduce([values]).wait()
    except RuntimeError as error:
        transport.send(0, Frame(transport.rank, (), str(error)))
    time.sleep(60)


def add_stage(transport: GlooTransport, stages: int) -> None:
    """Run a shard of a pipeline whose stages add 1, and whose last stage refuses negative values.

    A value of 1000 kills the process, a value of 2000 freezes it.
    """
    topology = Topology(stages)
    stage, _ = topology.shards[transport.rank - 1]

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        value = arrays[0].flat[0]
        if stage == stages - 1:
            if value < 0:
                raise ProgramError(f"{value:g} is negative")
            if value >= 2000:
                threading.Event().wait()
            if value >= 1000:
                os.kill(os.getpid(), signal.SIGKILL)
        return [array + 1 for array in arrays]

    ShardLoop(run, transport, topology.source(stage, 0), topology.targets(stage, 0)).serve()
