"""Transport between processes over gloo, PyTorch's TCP pairs.

Between processes of one node, large arrays go through shared memory, and only the frame's head
goes over its pair.

    rank 0: Rendezvous(ip) → address ─┐
    every rank: GlooTransport(address, rank, size, ip) → all pairs connected → send / receive

The global process group of ``torch.distributed`` is not used. A receive has no deadline, because
a receive that times out makes gloo close every pair of its process. It ends with the peer's
connection. :meth:`GlooTransport.close` uses this effect to end local waits.
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
"""Work handle of one message, and its memory."""

_FOREVER = timedelta(days=3650)
_HEADS, _TAILS, _UNUSED = 0, 1, 2
"""Tags. Heads have their own tag, so that a receive for the next one can be posted in advance."""
_FLUSH_S = 2.0
"""Time limit of close() for peers to receive sent frames, in seconds. A frozen peer never does,
nor one that ended with a frame in shared memory."""


@dataclass(frozen=True)
class Address:
    """Address of the rendezvous of one group."""

    host: str
    port: int


def prepare() -> None:
    """Import PyTorch, which connecting needs.

    The import takes two seconds of a core, best spent while other processes load. A replica without
    shards never calls this, and does not pay for it.
    """
    import_module("torch.distributed")


class Rendezvous:
    """Key-value store, held by rank 0, in which the processes look up each other's pairs.

    It listens on ``ip`` alone, at a port chosen by the kernel, until it is closed.
    """

    def __init__(self, ip: str) -> None:
        # Imported here: a replica without shards does not pay for torch.
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
        """Stop listening. Connected pairs stay connected; no further process can join."""
        self._store = None


class GlooTransport:
    """See :class:`cluster.runtime.transport.Transport`.

    Waits until all ``size`` processes have joined, for at most ``start_timeout_s`` seconds, then
    raises TransportError. ``ip``: address of this node at which the other processes reach it.

    A frame stays in memory until its receiver has read it, and the next send to that receiver waits
    until then. A longer queue would hold memory that the next stage needs in the cache.
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
            raise ValueError(f"rank {rank} of {size}: expected size ≥ 2 and 0 ≤ rank < size")
        # Imported here: a replica without shards does not pay for torch.
        from torch._C._distributed_c10d import TCPStore

        self.rank = rank
        self.size = size
        self._ip = ip
        self._timeout = timedelta(seconds=start_timeout_s)
        self._label = f"rank {rank} of {size}, rendezvous at {address.host}:{address.port}"
        try:
            self._store: Any = TCPStore(
                address.host, address.port, is_master=False, timeout=self._timeout
            )
        except RuntimeError as error:
            raise TransportError(
                f"{self._label}: no answer ({error}); check that rank 0 runs and "
                "that this node can reach it"
            ) from error
        self._group = self._connect("all", list(range(size)))
        self._sub_groups: list[tuple[Any, int]] = []
        self._closing = threading.Lock()
        self._closed = False
        self._sending = [threading.Lock() for _ in range(size)]
        self._unfinished: list[list[_Sent]] = [[] for _ in range(size)]
        self._heads: dict[int, tuple[Any, np.ndarray]] = {}
        self._buffers = Buffers()
        self._lender = Lender()
        self._readers, self._borrowers = self._connect_memory()

    def send(self, to: int, frame: Frame) -> None:
        """See :class:`~cluster.runtime.transport.Transport`."""
        # A head and its tail must not interleave with another thread's.
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
                overflow = np.empty(length, np.uint8)
                self._group.recv([_tensor(overflow)], source, _TAILS).wait(_FOREVER)
                facts = wire.parse_facts(overflow)
            arrays, pending = wire.arrays_of(
                head, facts, length, self._buffers, self._borrowers.get(source)
            )
            works = [
                self._group.recv([_tensor(data)], source, _TAILS) for data in pending if data.size
            ]
            # With the receive posted, the sender writes at once, without a round trip before it.
            # A sender that has closed since fails the next receive, not this frame.
            with contextlib.suppress(RuntimeError):
                self._heads[source] = self._next_head(source)
            for work in works:
                work.wait(_FOREVER)
            arriving_s = time.perf_counter() - started
        return Frame(
            facts.number,
            arrays,
            facts.error,
            facts.entered_at,
            facts.stage_s,
            facts.refuses_input,
            arriving_s,
        )

    def sub_group(self, ranks: Sequence[int]) -> Any:
        """Return a ``ProcessGroupGloo`` among ``ranks``, for reductions between shards of a stage.

        Each of them must call this, with the same ranks in the same order, while the rendezvous is
        open. Operations of the group have no deadline. They raise RuntimeError when a member is
        unavailable, and when this transport is closed.
        """
        if self.rank not in ranks or len(set(ranks)) != len(ranks):
            raise ValueError(
                f"group of ranks {list(ranks)}: expected rank {self.rank} in it, and each rank once"
            )
        group = self._connect("-".join(map(str, ranks)), ranks)
        with self._closing:
            if not self._closed:
                self._sub_groups.append((group, len(ranks)))
                return group
        _disconnect(group, ranks.index(self.rank), len(ranks))
        raise self._unavailable("a member of the group", "it was closed")

    def close(self) -> None:
        """See :class:`~cluster.runtime.transport.Transport`. Also closes the sub-groups."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        deadline = time.monotonic() + _FLUSH_S
        for unfinished in self._unfinished:
            with contextlib.suppress(RuntimeError):  # an unavailable peer receives nothing
                for work, _ in tuple(unfinished):
                    work.wait(timedelta(seconds=max(deadline - time.monotonic(), 0.001)))
        self._lender.flush(deadline - time.monotonic())
        self._lender.close()
        _disconnect(self._group, self.rank, self.size)
        for group, size in self._sub_groups:
            _disconnect(group, group.rank(), size)

    def _connect(self, name: str, ranks: Sequence[int]) -> Any:
        # Bindings that torch.distributed does not export; see the module's docstring.
        from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo

        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = self._timeout
        options._devices = [ProcessGroupGloo.create_device(hostname=self._ip)]
        options._threads = 1
        store = PrefixStore(f"headrace/{name}", self._store)
        try:
            group = ProcessGroupGloo(store, ranks.index(self.rank), len(ranks), options)
            # A rank is connected to all peers before these are connected to each other.
            group.barrier().wait()  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise TransportError(
                f"{self._label}: not all of ranks {list(ranks)} joined within "
                f"{self._timeout.total_seconds():g} s ({error}); look at their logs, or raise the "
                "start timeout if loading takes longer"
            ) from error
        group.set_timeout(_FOREVER)
        return group

    def _connect_memory(self) -> tuple[frozenset[int], dict[int, Borrower]]:
        """Return the peers that can map this process's memory, and borrowers of mappable peers."""
        probe = Probe()
        try:
            self._store.set(f"probe/{self.rank}", probe.address)
            peers = [rank for rank in range(self.size) if rank != self.rank]
            probes = {rank: self._store.get(f"probe/{rank}").decode() for rank in peers}
            reached = [rank for rank, address in probes.items() if reaches(address)]
            self._store.set(f"reached/{self.rank}", orjson.dumps(reached))
            # Once every rank has published its list, the probes are no longer needed.
            answers = {rank: orjson.loads(self._store.get(f"reached/{rank}")) for rank in peers}
        except RuntimeError as error:
            raise self._unavailable("a peer", str(error)) from error
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
            raise self._unavailable(f"rank {rank}", "this transport was closed")
        try:
            yield
        except RuntimeError as error:
            reason = "this transport was closed" if self._closed else str(error)
            raise self._unavailable(f"rank {rank}", reason) from error

    def _unavailable(self, peer: str, reason: str) -> TransportError:
        return TransportError(f"{self._label}: {peer} is unavailable: {reason}")


def _disconnect(group: Any, rank: int, size: int) -> None:
    """Close all pairs of a process group, which ends every wait on them, here and there."""
    # Gloo has no call that interrupts a wait, but a receive that times out closes every pair. A
    # receive from an unavailable peer fails before its timeout, hence one per peer.
    for peer in range(size):
        if peer != rank:
            with contextlib.suppress(RuntimeError):
                pending = group.recv([_tensor(np.empty(1, np.uint8))], peer, _UNUSED)
                pending.wait(timedelta(milliseconds=1))


def _tensor(data: np.ndarray) -> Any:
    # Imported here: a replica without shards does not pay for torch.
    import torch

    if not data.flags.writeable:
        # Torch warns about read-only memory; gloo only reads the arrays that it sends.
        data = np.asarray(_Writeable(data))
    return torch.from_numpy(data)


class _Writeable:
    def __init__(self, data: np.ndarray) -> None:
        self._data = data  # keeps the memory alive
        pointer, _ = data.__array_interface__["data"]
        self.__array_interface__ = data.__array_interface__ | {"data": (pointer, False)}
