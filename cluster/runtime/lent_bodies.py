"""Request bodies shared between processes of one node: written once, read by each receiver.

    sender     Bodies.lend(parts) → LentBody → its reference, in a header of requests without a body
    receiver   read_lent(reference) → a private copy
    sender     the LentBody ends with the request → its memory is reused for the next one

The memory is a memfd, which the receiver opens by the sender's /proc entry. It has no name that
could be left behind, and ends with the sender. The receiver of a cancelled request may still read
while the memory is reused: every use has a number, and a copy with a changed one is discarded.

Gain of an ensemble of two, measured 2026-12-01 on an AMD EPYC with 2 cores that other work kept
busy: 1.7 ms of 8.7 ms at p50, and 1 to 2 ms of CPU time per request. Median of 32 paired blocks of
250 requests of 602 KB, one in flight, beside the same router sending each body twice; models that
compute next to nothing. The middle half of the blocks gained 0.9 to 2.4 ms.
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

_UNREADABLE = (
    "the referenced body is unavailable: its sender is on another node, ended or cancelled it"
)
"""One message for all cases: a guessed reference reveals nothing about other processes' files."""

_IDLE = 8
"""Maximum number of idle slots; others are released."""


class LentBody:
    """Body that other processes can read while this object exists."""

    def __init__(self, slot: _Slot, idle: list[_Slot], length: int) -> None:
        self.reference = f"{os.getpid()}:{slot.descriptor}:{slot.use}:{length}:{slot.token.hex()}"
        self._slot = slot
        self._idle = idle

    def __del__(self) -> None:
        if len(self._idle) < _IDLE:
            self._idle.append(self._slot)


class Bodies:
    """Shared memory of one sending process, for any number of bodies at once."""

    def __init__(self) -> None:
        self._idle: list[_Slot] = []

    def lend(self, parts: Sequence[bytes | memoryview]) -> LentBody:
        """Write the concatenated parts into shared memory; OSError if there is no memory."""
        slot = self._idle.pop() if self._idle else _Slot()
        return LentBody(slot, self._idle, slot.write(parts))


def read_lent(reference: str, limit_bytes: int) -> bytearray:
    """Return a copy of the body.

    LentBodyError if this process cannot read it: its sender is on another node, ended, or cancelled
    the request. PayloadTooLargeError if it is over the limit.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise LentBodyError("malformed reference to a body: expected PID:FD:USE:LENGTH:TOKEN")
    pid, number, use, length = map(int, match.groups()[:-1])
    if length > limit_bytes:
        raise PayloadTooLargeError(
            f"the body is {length} bytes, this model reads at most {limit_bytes}"
        )
    path = f"/proc/{pid}/fd/{number}"
    try:
        # A client must not reach any other file that a process has open.
        if not os.readlink(path).startswith(_LINK):
            raise LentBodyError(_UNREADABLE)
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LentBodyError(_UNREADABLE) from error
    expected = _HEAD.pack(bytes.fromhex(match[5]), use)
    try:
        # Compared before and after: a body written meanwhile begins with another number.
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
        """Return the number of bytes written."""
        self.use += 1
        os.pwrite(self.descriptor, _HEAD.pack(self.token, self.use), 0)
        end = _HEAD.size
        for part in parts:
            remaining = memoryview(part).cast("B")
            while remaining:
                written = os.pwrite(self.descriptor, remaining, end)
                remaining, end = remaining[written:], end + written
        return end - _HEAD.size
