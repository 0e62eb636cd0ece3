"""Digest of a request's content: equal bodies have equal digests, in every process with the key.

body → GMAC (NIST SP 800-38D), in pieces → BLAKE2b, with kind and length → 64 bits

Two bodies share a digest with a probability near 2**-64, whatever they have in common. Nobody
without the key can search for such bodies.
"""

from __future__ import annotations

from hashlib import blake2b

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = bytes(12)
"""Constant, so that equal bodies have equal tags; BLAKE2b keeps the tags secret."""

_PIECE_BYTES = 2**30
"""Size of a piece; GMAC reads at most 2 GiB in this library."""


class ContentDigest:
    """Digests with one key."""

    def __init__(self, key: bytes) -> None:
        """``key``: 32 bytes."""
        self._key = key
        self._gcm = AESGCM(key)

    def of(self, kind: str, body: bytes | bytearray | memoryview) -> int:
        """Return the digest of a body as a number below 2**64.

        ``kind``: how the body is read. Bodies of different kinds have different digests.
        """
        content = blake2b(f"{kind} {len(body)} ".encode(), digest_size=8, key=self._key)
        for start in range(0, len(body), _PIECE_BYTES):
            piece = memoryview(body)[start : start + _PIECE_BYTES]
            content.update(self._gcm.encrypt(_NONCE, b"", piece))
        return int.from_bytes(content.digest(), "little")
