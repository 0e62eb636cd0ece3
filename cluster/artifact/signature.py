"""Signatures of artifacts: ed25519 over an artifact's content id.

    private key (PEM) + artifact id → sign  → Signature, stored beside the artifact, never in it
    public keys (PEM) + signatures  → judge → verdict of each signature
                                    → require: one by a trusted key, or ArtifactUntrustedError

The id is the sha256 of the manifest, which names the sha256 of every file, so a signature of the id
covers them all. Keys are those of ``openssl genpkey -algorithm ed25519``. Write access to a trusted
key is write access to the trust, so only its owner may have it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from cluster.config.guarded_files import (
    require_file,
    require_private,
    require_unchanged_by_others,
)
from cluster.errors import ArtifactUntrustedError, ConfigError

_DOMAIN = b"headrace artifact signature 1\n"
"""Prefix of every signed message, so that no signature of another protocol fits an artifact."""

_MAKE_KEY = "`openssl genpkey -algorithm ed25519 -out FILE` creates one"

_FROM_OPENSSH = (
    "python -c 'import sys; from cryptography.hazmat.primitives.serialization import *; "
    "sys.stdout.buffer.write(load_ssh_private_key(sys.stdin.buffer.read(), None).private_bytes("
    "Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))'"
)
"""Command that converts a key of ssh-keygen, without a passphrase, to openssl's format."""


@dataclass(frozen=True)
class Signature:
    """One signature and the id of its key."""

    key_id: str
    """32 hex digits: the beginning of the sha256 of the raw public key."""

    content: bytes
    """The signature itself, 64 bytes."""


class Verdict(Enum):
    """Verdict on a signature."""

    TRUSTED = "trusted"
    UNKNOWN = "not trusted here"
    WRONG = "wrong: it does not match this artifact"


def message(artifact_id: str) -> bytes:
    """Return the message to sign for an artifact's id (64 hex digits)."""
    return _DOMAIN + artifact_id.encode("ascii")


def key_id(key: Ed25519PublicKey) -> str:
    """Return the id of a public key."""
    return sha256(key.public_bytes_raw()).hexdigest()[:32]


def sign(artifact_id: str, key: Ed25519PrivateKey) -> Signature:
    """Sign the artifact of an id."""
    return Signature(key_id(key.public_key()), key.sign(message(artifact_id)))


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key of a PEM file.

    Raises ConfigError if others than its owner may read the file, or it holds no such key.
    """
    require_private(path, str(path))
    pem = _read(path)
    if b"-----BEGIN OPENSSH PRIVATE KEY-----" in pem:
        raise ConfigError(
            f"{path}: expected a key in openssl's format, got OpenSSH's; {_MAKE_KEY}, or "
            f"remove its passphrase and convert it: `(umask 077; {_FROM_OPENSSH} < "
            f"{shlex.quote(str(path))} > KEY.pem)`"
        )
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigError(
            f"{path}: the key is encrypted; expected one without a passphrase: `openssl pkey -in "
            "FILE -out PLAIN.pem`, in a directory that only you can read"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: holds no private key in PEM; {_MAKE_KEY}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: expected an ed25519 key, got {_kind(key)}; {_MAKE_KEY}")
    return key


def read_trusted_keys(directory: Path) -> dict[str, Ed25519PublicKey]:
    """Return key id → key of every ``*.pem`` file in a directory.

    Raises ConfigError, naming the file, if others than its owner can write to it or it does not
    hold exactly one ed25519 public key, and if there is no file at all.
    """
    subject = f"trusted keys in {directory}"
    require_unchanged_by_others(directory, subject)
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == ".pem")
    except OSError as error:
        raise ConfigError(f"{subject}: cannot be read: {error.strerror}") from error
    keys = {}
    for path in files:
        key = _public_key(path)
        keys[key_id(key)] = key
    if not keys:
        raise ConfigError(
            f"{directory}: holds no trusted key; store public keys there as NAME.pem, created by "
            "`openssl pkey -in PRIVATE.pem -pubout -out NAME.pem`"
        )
    return keys


def judge(
    artifact_id: str, signatures: Mapping[str, bytes], trusted: Mapping[str, Ed25519PublicKey]
) -> dict[str, Verdict]:
    """Return key id → verdict on its signature of the artifact."""
    return {
        signer: _verdict(artifact_id, content, trusted.get(signer))
        for signer, content in signatures.items()
    }


def require(
    artifact_id: str,
    model: str,
    signatures: Mapping[str, bytes],
    trusted: Mapping[str, Ed25519PublicKey],
) -> None:
    """Raise ArtifactUntrustedError, naming the signers, unless a trusted key has signed.

    ``model``: served model, for the message.
    """
    verdicts = judge(artifact_id, signatures, trusted)
    if Verdict.TRUSTED in verdicts.values():
        return
    subject = f"model {model}: artifact {artifact_id}"
    # The whole id: a prefix may match another artifact by the time of signing.
    fix = f"sign it with `headrace sign {artifact_id} --key PRIVATE.pem`"
    wrong = [signer for signer, verdict in verdicts.items() if verdict is Verdict.WRONG]
    if wrong:
        raise ArtifactUntrustedError(
            f"{subject}: the signature of the trusted key {_joined(wrong)} does not match: "
            f"signature or artifact were changed; {fix}, if it is the artifact you built"
        )
    if verdicts:
        raise ArtifactUntrustedError(
            f"{subject} is signed by {_joined(list(verdicts))}, not by one of the trusted keys "
            f"{_joined(list(trusted))}; {fix} of a trusted key, or add the signer's public key"
        )
    raise ArtifactUntrustedError(f"{subject} is not signed, but require_signature is true; {fix}")


def _verdict(artifact_id: str, content: bytes, key: Ed25519PublicKey | None) -> Verdict:
    if key is None:
        return Verdict.UNKNOWN
    try:
        key.verify(content, message(artifact_id))
    except InvalidSignature:
        return Verdict.WRONG
    return Verdict.TRUSTED


def _public_key(path: Path) -> Ed25519PublicKey:
    require_file(path, str(path))
    require_unchanged_by_others(path, str(path))
    # For a link: write access to the target's directory is access to the key, too.
    parent = path.resolve().parent
    require_unchanged_by_others(parent, f"{path}: {parent}")
    pem = _read(path)
    if (blocks := pem.count(b"-----BEGIN ")) > 1:
        raise ConfigError(
            f"{path}: holds {blocks} keys or certificates, expected one public key, since only the "
            "first would count; store each in a separate file"
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{path}: holds no public key in PEM; `openssl pkey -in PRIVATE.pem -pubout` creates it"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: expected an ed25519 public key, got {_kind(key)}")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _kind(key: object) -> str:
    return type(key).__name__.removeprefix("_")


def _joined(signers: Sequence[str]) -> str:
    return ", ".join(signers)
