"""All-reduce over the tensor ranks of one model: ``headrace::all_reduce(Tensor x) -> Tensor``.

    shard_module → torch.ops.headrace.all_reduce(x) → a program
    a program runs → the operator ─→ the current group of the thread that runs it → the sum

There is one operator and three kinds of group: the native runner's, through shared memory between
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
"""Size of a rank's slot in a :class:`SharedMemoryGroup`; larger tensors are sent in parts."""

TIMEOUT_S = 5.0
"""Timeout of a sum in seconds, so that dead and frozen ranks end it."""


class Group(Protocol):
    """Group of the ranks that hold the slices of one model, as seen by one of them."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of all ranks' ``tensor``, in new memory, bit-identical on every rank.

        Raises RuntimeError when a rank does not take part.
        """
        ...


class SharedMemoryGroup(Protocol):
    """Group of the native runner: sums in shared memory, without PyTorch's package.

    ``create`` makes rank 0, whose ``address`` the other ranks open. Reductions raise RuntimeError
    when a rank's process has ended, and ``timeout_s`` after the last rank started to wait. The
    group is unusable afterwards, for every rank.
    """

    address: str
    rank: int
    size: int

    @staticmethod
    def create(size: int, slot_bytes: int, timeout_s: float) -> SharedMemoryGroup:
        """Create rank 0 of a group of ``size`` ranks."""
        ...

    @staticmethod
    def open(address: str, rank: int, timeout_s: float) -> SharedMemoryGroup:
        """Open another rank, in a process of the same node and user while rank 0 runs."""
        ...

    def all_reduce(self, array: Any) -> Any:
        """Return the sum of all ranks' numpy ``array``."""
        ...

    def abort(self) -> None:
        """Make the current and later reductions of all ranks fail."""
        ...


_current = threading.local()


@contextlib.contextmanager
def using(group: Group) -> Iterator[None]:
    """Let programs of this thread reduce over ``group`` inside the block."""
    previous = getattr(_current, "group", None)
    _current.group = group
    try:
        yield
    finally:
        _current.group = previous


@cache
def register() -> None:
    """Register the operator with PyTorch, for use in modules and graphs.

    Importing torch costs a replica 2 s, so only code that runs or builds slices calls this.
    """
    import torch

    # The native runner defines the operator, too, for processes without Python's torch, and may
    # have been loaded first. Its CPU kernel takes precedence over this one, and calls this one if
    # its runner has no group: see runner.cpp.
    library = torch.library.Library("headrace", "FRAGMENT")
    if not hasattr(torch.ops.headrace, "all_reduce"):
        library.define("all_reduce(Tensor x) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    library.impl("all_reduce", _reduce, "CompositeExplicitAutograd")
    torch.library.register_fake("headrace::all_reduce", _fake, lib=library)
    _libraries.append(library)  # its end would remove the kernels


_libraries: list[Any] = []


def _reduce(x: Tensor) -> Tensor:
    group: Group | None = getattr(_current, "group", None)
    if group is None:
        raise ProgramError(
            "this program is one slice of a model: run it inside collective.using(group)"
        )
    return group.all_reduce(x)


def _fake(x: Tensor) -> Tensor:
    import torch

    return torch.empty_like(x, memory_format=torch.contiguous_format)


class ProcessGroupSum:
    """Group over a ``torch.distributed`` process group, such as ProcessGroupGloo."""

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
    """Group that is assigned only after the program that reduces over it is loaded."""

    def __init__(self) -> None:
        self.joined: Group | None = None

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See :class:`Group`."""
        if self.joined is None:
            raise RuntimeError("the other ranks of this slice are not connected yet")
        return self.joined.all_reduce(tensor)


def thread_groups(size: int, timeout_s: float = TIMEOUT_S) -> list[Group]:
    """Return ``size`` ranks for threads of this process, one per thread."""
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
        self._wait()
        total: Tensor = self._meeting.tensors[0].clone()
        for addend in self._meeting.tensors[1:]:
            total += addend
        self._wait()  # no rank may change its tensor before all have read it
        return total

    def _wait(self) -> None:
        try:
            self._meeting.barrier.wait()
        except threading.BrokenBarrierError:
            raise RuntimeError(
                f"all-reduce, rank {self._rank} of {len(self._meeting.tensors)}: another rank did "
                "not take part in time"
            ) from None
