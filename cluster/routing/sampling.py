"""Choice of a share of the requests by their ids, the same in every router."""

from __future__ import annotations

from hashlib import blake2b

_BITS = 64


def takes_part(request_id: str, share: float, salt: str) -> bool:
    """Return whether a request belongs to the ``share`` of all request ids.

    ``salt`` makes choices for different purposes independent of each other.
    """
    digest = blake2b(request_id.encode(), digest_size=_BITS // 8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest) < share * 2**_BITS
