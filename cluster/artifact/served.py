"""The artifact that a model serves: opened, and its signature checked where the config asks for it.

    ModelArgs → store → id → require_signature? → its signatures ┐
                             HEADRACE_TRUSTED_KEYS → public keys ┴→ artifact, or refused

Everything that loads a served model's programs opens it here, before it reads any of its files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cluster.artifact.artifact import Artifact
from cluster.artifact.store import open_store
from cluster.config.guarded_files import require_absolute
from cluster.config.serving import ModelArgs
from cluster.errors import ConfigError

TRUSTED_KEYS = "HEADRACE_TRUSTED_KEYS"
"""Environment variable: the directory with the PEM files of the trusted public keys, on every
node."""


def open_served(args: ModelArgs, artifact_id: str | None = None) -> Artifact:
    """The artifact that the model's args name, or the one of ``artifact_id`` in their store.

    With ``require_signature`` it raises ArtifactUntrustedError unless a trusted key has signed
    it, and ConfigError where no trusted keys can be read. Else as ``ArtifactStore.open`` raises.
    """
    store = open_store(args.store)
    found = store.find(artifact_id or args.artifact)
    if args.require_signature:
        # Before any of it is downloaded: what nobody vouches for is not even to fill the disk.
        _require_signed(args, found, store.signatures(found))
    return store.fetch(found)


def _require_signed(args: ModelArgs, artifact_id: str, signatures: Mapping[str, bytes]) -> None:
    # Imported here: a replica that needs no signature starts without the library for them.
    from cluster.artifact import signature

    directory = trusted_directory()
    if directory is None:
        raise ConfigError(
            f"model {args.name}: require_signature is true, and {TRUSTED_KEYS} is not set: no key "
            "is trusted here. Set it, on every node before Ray starts, to a directory with public "
            "keys as *.pem"
        )
    trusted = signature.read_trusted_keys(directory)
    signature.require(artifact_id, args.name, signatures, trusted)


def trusted_directory() -> Path | None:
    """Where this node's trusted keys are; None if the variable is not set.

    ConfigError if it is relative.
    """
    given = os.environ.get(TRUSTED_KEYS)
    if not given:
        return None
    directory = Path(os.path.expanduser(given))
    require_absolute(directory, TRUSTED_KEYS)
    return directory
