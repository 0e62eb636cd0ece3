"""Frames between processes over gloo: TCP pairs that PyTorch brings along.

Between processes of one node, large arrays go through shared memory, and only the frame's head
over its pair.

    rank 0: Rendezvous(ip) → address ─┐
    every rank: GlooTransport(address, rank, size, ip) → all pairs connected → send / receive

Nothing here touches ``torch.distributed``'s global process group. A receive has no deadline,
because one that times out makes gloo close every pair of its process; it ends when the
peer's connection does. :meth:`GlooTransport.close` uses just that to end our own waits.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

import numpy as np
import orjson

from cluster.errors import TransportError
from cluster.runtime import wire
from cluster.runtime.lending import Buffers
from cluster.runtime.shared_memory import Borrower, Lender, Probe, reaches
from cluster.runtime.transport import Frame

_Sent = tuple[Any, np.ndarray]
"""The work of one message, and its memory."""

_FOREVER = timedelta(days=3650)
_HEADS, _TAILS, _NEVER_SENT = 0, 1, 2
"""Tags. Heads have their own, so that a receive for the next one can be ready in advance."""
_FLUSH_S = 2.0
"""How long closing waits for a peer to take what it was sent: one that is frozen, or gone with a
frame that lies in shared memory, never does."""


@dataclass(frozen=True)
class Address:
    """Where the processes of one group find each other."""

    host: str
    port: int


def prepare() -> None:
    """Import PyTorch, which connecting needs: two seconds of a core, best spent while others load.

    A serving replica that is not sharded never gets here, and does not pay for it.
    """
    import_module("torch.distributed")


class Rendezvous:
    """Held by rank 0: the key-value store in which the processes find each other's pairs.

    It listens on ``ip`` alone, at a port the kernel chose, and until it is closed.
    """

    def __init__(self, ip: str) -> None:
        # A serving replica that is not sharded never gets here, and does not pay for torch.
        from torch._C._distributed_c10d import TCPStore

        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listening:
            listening.bind((ip, 0))
            listening.listen(128)
            self.address = Address(ip, listening.getsockname()[1])
            self._store: Any = TCPStore(
                ip,
                self.address.port,
                is_master=True,
                wait_for_workers=False,
                master_listen_fd=listening.detach(),
            )

    def close(self) -> None:
        """Stop listening. Pairs that are connected stay so; nobody can join any more."""
        self._store = None


class GlooTransport:
    """See :class:`cluster.runtime.transport.Transport`.

    Waits until all ``size`` processes have come, for ``start_timeout_s`` at most, then raises
    TransportError. ``ip`` is the address of this node that the others reach it by.

    A frame is kept until its receiver has taken it; sending that receiver the next one waits until
    then. More would hold memory that the next stage needs in the cache.
    """

    def __init__(
        self,
        address: Address,
        rank: int,
        size: int,
        ip: str,
        start_timeout_s: float,
    ) -> None:
        if not 0 <= rank < size or size < 2:
            raise ValueError(f"rank {rank} of {size}: expected 2 processes or more, and 0 ≤ rank")
        # A serving replica that is not sharded never gets here, and does not pay for torch.
        from torch._C._distributed_c10d import TCPStore

        self.rank = rank
        self.size = size
        self._ip = ip
        self._timeout = timedelta(seconds=start_timeout_s)
        self._where = f"rank {rank} of {size}, meeting at {address.host}:{address.port}"
        try:
            self._store: Any = TCPStore(
                address.host, address.port, is_master=False, timeout=self._timeout
            )
        except RuntimeError as error:
            raise TransportError(
                f"{self._where}: nothing answers there ({error}); does rank 0 still run, and can "
                "this node reach it?"
            ) from error
        self._group = self._connected("all", list(range(size)))
        self._sub_groups: list[tuple[Any, int]] = []
        self._closing = threading.Lock()
        self._closed = False
        self._sending = [threading.Lock() for _ in range(size)]
        self._unfinished: list[list[_Sent]] = [[] for _ in range(size)]
        self._heads: dict[int, tuple[Any, np.ndarray]] = {}
        self._buffers = Buffers()
        self._lender = Lender()
        self._readers, self._borrowers = self._neighbours()

    def send(self, to: int, frame: Frame) -> None:
        """See :class:`~cluster.runtime.transport.Transport`."""
        # A head and its tail must not mix with another thread's.
        with self._peer(to), self._sending[to]:
            head, *tail = wire.pack(frame, self._lender if to in self._readers else None)
            for work, _ in self._unfinished[to]:
                work.wait(_FOREVER)
            self._unfinished[to] = [(self._group.send([_tensor(head)], to, _HEADS), head)]
            for data in tail:
                if data.size:
                    work = self._group.send([_tensor(data)], to, _TAILS)
                    self._unfinished[to].append((work, data))

    def receive(self, source: int) -> Frame:
        """See :class:`~cluster.runtime.transport.Transport`."""
        with self._peer(source):
            ahead = source in self._heads
            work, head = self._heads.pop(source) if ahead else self._next_head(source)
            work.wait(_FOREVER)
            started = time.perf_counter()
            length = wire.facts_length(head)
            if wire.fits(length):
                facts = wire.read_facts(head, length)
            else:
                written = np.empty(length, np.uint8)
                self._group.recv([_tensor(written)], source, _TAILS).wait(_FOREVER)
                facts = wire.parse_facts(written)
            arrays, awaited = wire.arrays_of(
                head, facts, length, self._buffers, self._borrowers.get(source)
            )
            works = [
                self._group.recv([_tensor(data)], source, _TAILS) for data in awaited if data.size
            ]
            # A sender that finds the receive ready writes the bytes at once, without asking first.
            # One that has closed since is gone for the next receive, not for this frame.
            with contextlib.suppress(RuntimeError):
                self._heads[source] = self._next_head(source)
            for work in works:
                work.wait(_FOREVER)
            arriving_s = time.perf_counter() - started
        return Frame(facts.number, arrays, facts.error, facts.entered_at, facts.stage_s, arriving_s)

    def sub_group(self, ranks: Sequence[int]) -> Any:
        """A ``ProcessGroupGloo`` among ``ranks``, for reductions between the shards of a stage.

        Each of them must call this, with the same ranks in the same order; it has to be called
        while the rendezvous is open. Its operations have no deadline; they raise RuntimeError
        when a member is gone, and when this transport is closed.
        """
        if self.rank not in ranks or len(set(ranks)) != len(ranks):
            raise ValueError(f"rank {self.rank} asks for a group of {list(ranks)}: name it, once")
        group = self._connected("-".join(map(str, ranks)), ranks)
        with self._closing:
            if not self._closed:
                self._sub_groups.append((group, len(ranks)))
                return group
        _part(group, ranks.index(self.rank), len(ranks))
        raise self._gone("a member of the group", "it was closed")

    def close(self) -> None:
        """See :class:`~cluster.runtime.transport.Transport`. Also ends the sub-groups."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        deadline = time.monotonic() + _FLUSH_S
        for unfinished in self._unfinished:
            with contextlib.suppress(RuntimeError):  # a peer that is gone takes nothing
                for work, _ in tuple(unfinished):
                    work.wait(timedelta(seconds=max(deadline - time.monotonic(), 0.001)))
        self._lender.flush(deadline - time.monotonic())
        self._lender.close()
        _part(self._group, self.rank, self.size)
        for group, size in self._sub_groups:
            _part(group, group.rank(), size)

    def _connected(self, name: str, ranks: Sequence[int]) -> Any:
        # Bindings behind torch.distributed that it does not name; see the module's first line.
        from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo

        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = self._timeout
        options._devices = [ProcessGroupGloo.create_device(hostname=self._ip)]
        options._threads = 1
        store = PrefixStore(f"headrace/{name}", self._store)
        try:
            group = ProcessGroupGloo(store, ranks.index(self.rank), len(ranks), options)
            # One is connected to all before the others are connected to each other.
            group.barrier().wait()  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise TransportError(
                f"{self._where}: not all of ranks {list(ranks)} came within "
                f"{self._timeout.total_seconds():g} s ({error}); look at their logs, or raise the "
                "start timeout if they load for longer"
            ) from error
        group.set_timeout(_FOREVER)
        return group

    def _neighbours(self) -> tuple[frozenset[int], dict[int, Borrower]]:
        """Peers that can map our memory, and whose memory we can map."""
        probe = Probe()
        try:
            self._store.set(f"probe/{self.rank}", probe.address)
            peers = [rank for rank in range(self.size) if rank != self.rank]
            probes = {rank: self._store.get(f"probe/{rank}").decode() for rank in peers}
            reached = [rank for rank, address in probes.items() if reaches(address)]
            self._store.set(f"reached/{self.rank}", orjson.dumps(reached))
            # Once all have said whom they reach, no probe is needed any more.
            answers = {rank: orjson.loads(self._store.get(f"reached/{rank}")) for rank in peers}
        except RuntimeError as error:
            raise self._gone("a peer", str(error)) from error
        finally:
            probe.close()
        readers = frozenset(rank for rank, reads in answers.items() if self.rank in reads)
        return readers, {rank: Borrower(int(probes[rank].split(":")[0])) for rank in reached}

    def _next_head(self, source: int) -> tuple[Any, np.ndarray]:
        head = np.empty(wire.HEAD_BYTES, np.uint8)
        return self._group.recv([_tensor(head)], source, _HEADS), head

    @contextlib.contextmanager
    def _peer(self, rank: int) -> Iterator[None]:
        if rank == self.rank or not 0 <= rank < self.size:
            raise ValueError(f"rank {self.rank} of {self.size} has no peer {rank}")
        if self._closed:
            raise self._gone(f"rank {rank}", "this transport was closed")
        try:
            yield
        except RuntimeError as error:
            why = "this transport was closed" if self._closed else str(error)
            raise self._gone(f"rank {rank}", why) from error

    def _gone(self, peer: str, why: str) -> TransportError:
        return TransportError(f"{self._where}: {peer} is gone: {why}")


def _part(group: Any, rank: int, size: int) -> None:
    """Close all pairs of a process group: those who wait on them, here and there, stop."""
    # Gloo has no call for this that interrupts a wait, but a receive that times out closes every
    # pair. One from a peer that is gone fails before its time, hence one from each.
    for peer in range(size):
        if peer != rank:
            with contextlib.suppress(RuntimeError):
                never = group.recv([_tensor(np.empty(1, np.uint8))], peer, _NEVER_SENT)
                never.wait(timedelta(milliseconds=1))


def _tensor(data: np.ndarray) -> Any:
    # A serving replica that is not sharded never gets here, and does not pay for torch.
    import torch

    if not data.flags.writeable:
        # Torch warns about memory it could write to but must not; gloo only reads what it sends.
        data = np.asarray(_Writeable(data))
    return torch.from_numpy(data)


class _Writeable:
    def __init__(self, data: np.ndarray) -> None:
        self._data = data  # keeps the memory alive
        pointer, _ = data.__array_interface__["data"]
        self.__array_interface__ = data.__array_interface__ | {"data": (pointer, False)}
