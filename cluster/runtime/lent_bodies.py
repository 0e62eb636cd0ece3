"""A request's body for several processes of one node: written once, read by each of them.

    asker    Bodies.lend(parts) → LentBody → its reference, in a header of requests without a body
    asked    read_lent(reference) → a copy of its own
    asker    the LentBody goes, with the request → its memory is used for the next one

The memory is a memfd, which the asked process opens by the asker's /proc entry: it has no name that
could be left behind, and ends with the asker. Who was given up may read on while the memory is used
again: every use has a number, and a copy whose number has changed meanwhile is thrown away.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import struct
from collections.abc import Sequence

from cluster.errors import LentBodyError, PayloadTooLargeError

_NAME = "headrace-body"
_LINK = f"/memfd:{_NAME}"
_TOKEN_BYTES = 16
_HEAD = struct.Struct(f"<{_TOKEN_BYTES}sQ")
_REFERENCE = re.compile(r"(\d{1,10}):(\d{1,10}):(\d{1,15}):(\d{1,15}):([0-9a-f]{32})", re.ASCII)

_UNREADABLE = "there is no such body here: its owner runs elsewhere, is gone, or has given it up"
"""One sentence for all: who guesses learns nothing of what other processes have open."""

_IDLE = 8
"""Memory that waits to be used again, at most; the rest is given back."""


class LentBody:
    """A body that others can read as long as this object is there."""

    def __init__(self, slot: _Slot, idle: list[_Slot], length: int) -> None:
        self.reference = f"{os.getpid()}:{slot.descriptor}:{slot.use}:{length}:{slot.token.hex()}"
        self._slot = slot
        self._idle = idle

    def __del__(self) -> None:
        if len(self._idle) < _IDLE:
            self._idle.append(self._slot)


class Bodies:
    """The memory of one asking process, for as many bodies as are lent at once."""

    def __init__(self) -> None:
        self._idle: list[_Slot] = []

    def lend(self, parts: Sequence[bytes | memoryview]) -> LentBody:
        """Write the parts one behind the other; OSError if there is no memory."""
        slot = self._idle.pop() if self._idle else _Slot()
        return LentBody(slot, self._idle, slot.write(parts))


def read_lent(reference: str, limit_bytes: int) -> bytearray:
    """The body.

    LentBodyError if this process cannot read it: its owner runs elsewhere, is gone, or has given
    the request up. PayloadTooLargeError if it is over the limit.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise LentBodyError("this is no reference to a body")
    pid, number, use, length = (int(each) for each in match.groups()[:-1])
    if length > limit_bytes:
        raise PayloadTooLargeError(
            f"the body is {length} bytes, this model reads at most {limit_bytes}"
        )
    path = f"/proc/{pid}/fd/{number}"
    try:
        # Whatever else a process has open is none of the client's business.
        if not os.readlink(path).startswith(_LINK):
            raise LentBodyError(_UNREADABLE)
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LentBodyError(_UNREADABLE) from error
    expected = _HEAD.pack(bytes.fromhex(match[5]), use)
    try:
        # Looked at before and after: what is written meanwhile begins with another number.
        if not hmac.compare_digest(os.pread(opened, _HEAD.size, 0), expected):
            raise LentBodyError(_UNREADABLE)
        body = bytearray(length)
        read = os.preadv(opened, [body], _HEAD.size)
        if read != length or os.pread(opened, _HEAD.size, 0) != expected:
            raise LentBodyError(_UNREADABLE)
        return body
    finally:
        os.close(opened)


class _Slot:
    def __init__(self) -> None:
        self.descriptor = os.memfd_create(_NAME)
        self.token = secrets.token_bytes(_TOKEN_BYTES)
        self.use = 0

    def __del__(self) -> None:
        os.close(self.descriptor)

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        """Returns how many bytes they have."""
        self.use += 1
        os.pwrite(self.descriptor, _HEAD.pack(self.token, self.use), 0)
        end = _HEAD.size
        for part in parts:
            left = memoryview(part).cast("B")
            while left:
                written = os.pwrite(self.descriptor, left, end)
                left, end = left[written:], end + written
        return end - _HEAD.size
