"""The sum over the tensor ranks of one model: ``headrace::all_reduce(Tensor x) -> Tensor``.

    shard_module → torch.ops.headrace.all_reduce(x) → a program
    a program runs → the operator ─→ the current group of the thread that runs it → the sum

Its operator is one, its groups are three: the native runner's, through shared memory between
processes of one node (all_reduce.cpp); a process group of torch.distributed, between nodes and
GPUs (:class:`ProcessGroupSum`); and threads of one process, for tests (:func:`thread_groups`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any, Protocol

from cluster.errors import ProgramError

Tensor = Any
"""``torch.Tensor``, which a replica without slices does not import."""

SLOT_BYTES = 1 << 20
"""What a rank of a :class:`SharedMemoryGroup` hands over at once: larger tensors go in parts."""

TIMEOUT_S = 5.0
"""After so long without the other ranks a sum fails, so that no dead or frozen one is awaited."""


class Group(Protocol):
    """The ranks that each hold a slice of one model, as one of them sees them."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' ``tensor``, in new memory and equal bit by bit on every rank.

        Raises RuntimeError when a rank does not come.
        """
        ...


class SharedMemoryGroup(Protocol):
    """The native runner's class of that name: sums in shared memory, without PyTorch's package.

    ``create`` makes rank 0's, whose ``address`` the others open. Reductions raise RuntimeError
    when a rank's process is gone, and ``timeout_s`` after the one that waits last. No use is left
    in the group then, for any rank.
    """

    address: str
    rank: int
    size: int

    @staticmethod
    def create(size: int, slot_bytes: int, timeout_s: float) -> SharedMemoryGroup:
        """Rank 0 of a group of ``size``."""
        ...

    @staticmethod
    def open(address: str, rank: int, timeout_s: float) -> SharedMemoryGroup:
        """Another rank of it, in a process of the same node and user while rank 0 lives."""
        ...

    def all_reduce(self, array: Any) -> Any:
        """The sum of all ranks' numpy ``array``."""
        ...

    def abort(self) -> None:
        """Make the reductions of all ranks fail, also those that wait."""
        ...


_current = threading.local()


@contextlib.contextmanager
def using(group: Group) -> Iterator[None]:
    """Let programs that this thread runs meanwhile reduce over ``group``."""
    before = getattr(_current, "group", None)
    _current.group = group
    try:
        yield
    finally:
        _current.group = before


@cache
def register() -> None:
    """Make the operator known to PyTorch, so that modules and graphs can name it.

    Importing torch costs a replica 2 s, so this is called by who runs or builds slices with it.
    """
    import torch

    # The native runner, too, defines it, for processes without Python's torch; it may have come
    # first. Its kernel for the CPU goes before this one, and asks this one if its runner has no
    # group: see runner.cpp.
    library = torch.library.Library("headrace", "FRAGMENT")
    if not hasattr(torch.ops.headrace, "all_reduce"):
        library.define("all_reduce(Tensor x) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    library.impl("all_reduce", _reduced, "CompositeExplicitAutograd")
    torch.library.register_fake("headrace::all_reduce", _fake, lib=library)
    _kept.append(library)  # which would take its kernels along


_kept: list[Any] = []


def _reduced(x: Tensor) -> Tensor:
    group: Group | None = getattr(_current, "group", None)
    if group is None:
        raise ProgramError(
            "this program is one slice of a model; run it inside collective.using(group)"
        )
    return group.all_reduce(x)


def _fake(x: Tensor) -> Tensor:
    import torch

    return torch.empty_like(x, memory_format=torch.contiguous_format)


class ProcessGroupSum:
    """Over a ``torch.distributed`` process group, such as ProcessGroupGloo."""

    def __init__(self, group: Any, timeout_s: float = TIMEOUT_S) -> None:
        self._group = group
        self._timeout = timedelta(seconds=timeout_s)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See :class:`Group`."""
        import torch

        total = tensor.clone(memory_format=torch.contiguous_format)
        self._group.allreduce([total]).wait(self._timeout)
        return total


class LateGroup:
    """A group that is known only after the program that reduces over it is loaded."""

    def __init__(self) -> None:
        self.joined: Group | None = None

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See :class:`Group`."""
        if self.joined is None:
            raise RuntimeError("the other ranks of this slice are not connected yet")
        return self.joined.all_reduce(tensor)


def thread_groups(size: int, timeout_s: float = TIMEOUT_S) -> list[Group]:
    """``size`` ranks that are threads of this process, one for each."""
    meeting = _Meeting(size, timeout_s)
    return [_ThreadRank(meeting, rank) for rank in range(size)]


class _Meeting:
    def __init__(self, size: int, timeout_s: float) -> None:
        self.barrier = threading.Barrier(size, timeout=timeout_s)
        self.tensors: list[Any] = [None] * size


class _ThreadRank:
    def __init__(self, meeting: _Meeting, rank: int) -> None:
        self._meeting = meeting
        self._rank = rank

    def all_reduce(self, tensor: Tensor) -> Tensor:
        self._meeting.tensors[self._rank] = tensor
        self._meet()
        first, *others = self._meeting.tensors
        total: Tensor = first.clone()
        for other in others:
            total += other
        self._meet()  # until when no one may change what the others still read
        return total

    def _meet(self) -> None:
        try:
            self._meeting.barrier.wait()
        except threading.BrokenBarrierError:
            raise RuntimeError(
                f"all-reduce, rank {self._rank} of {len(self._meeting.tensors)}: another rank did "
                "not come in time"
            ) from None
