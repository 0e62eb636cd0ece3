"""``headrace sign``: sign an artifact with a private key."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from cluster.artifact import signature
from cluster.artifact.lookup import absolute
from cluster.artifact.store import open_store
from deployments.cli.arguments import add_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``headrace sign``."""
    parser.add_argument("artifact", help="name, id or beginning of an id")
    parser.add_argument(
        "--key", type=Path, required=True, help="private key: `openssl genpkey -algorithm ed25519`"
    )
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command with its parsed arguments and return the exit status."""
    return sign(args.artifact, args.key, args.store)


def sign(ref: str, key: Path, store: str | None) -> int:
    """Sign the artifact after checking every file's hash, and keep the signature in its store.

    ConfigError for a key that cannot be used or that others may read.
    """
    private = signature.read_private_key(key)
    place = open_store(absolute(store) if store else None)
    artifact = place.open(ref)
    artifact.verify()
    signed = signature.sign(str(artifact.id), private)
    place.keep_signature(str(artifact.id), signed.key_id, signed.content)
    print(f"{artifact.manifest.name}  {artifact.id}")
    print(f"signed by {signed.key_id}; to trust it, a node needs the public key:")
    key_path, name = shlex.quote(str(key)), shlex.quote(f"{key.stem}.pem")
    print(f"  openssl pkey -in {key_path} -pubout -out TRUSTED/{name}")
    if ref != artifact.id:
        print(f"{ref} stands for it in the store now: compare the id with what `compress` printed")
    return 0
