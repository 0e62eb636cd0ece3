"""Artifact of a served model: opened, and its signature checked if the config requires one.

    ModelArgs → store → id → require_signature? → its signatures ┐
                             HEADRACE_TRUSTED_KEYS → public keys ┴→ artifact, or refused

All loaders of a served model's programs open it here, before they read any of its files.
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
"""Environment variable: directory with the PEM files of trusted public keys, on every node."""


def open_served(args: ModelArgs, artifact_id: str | None = None) -> Artifact:
    """Open the artifact named by the model's args, or the one of ``artifact_id`` in their store.

    With ``require_signature`` it raises ArtifactUntrustedError unless a trusted key has signed
    the artifact, and ConfigError if no trusted keys can be read. Otherwise it raises as
    ``ArtifactStore.open`` does.
    """
    store = open_store(args.store)
    resolved_id = store.find(artifact_id or args.artifact)
    if args.require_signature:
        # Before the download: an unsigned artifact must not fill the disk.
        _require_signed(args, resolved_id, store.signatures(resolved_id))
    return store.fetch(resolved_id)


def _require_signed(args: ModelArgs, artifact_id: str, signatures: Mapping[str, bytes]) -> None:
    # Imported here: without require_signature, a replica does not load the library.
    from cluster.artifact import signature

    directory = trusted_directory()
    if directory is None:
        raise ConfigError(
            f"model {args.name}: require_signature is true, but {TRUSTED_KEYS} is not set, so no "
            "key is trusted. Set it, on every node before Ray starts, to a directory with public "
            "keys as *.pem"
        )
    trusted = signature.read_trusted_keys(directory)
    signature.require(artifact_id, args.name, signatures, trusted)


def trusted_directory() -> Path | None:
    """Return the directory of this node's trusted keys; None if the variable is not set.

    ConfigError if it is relative.
    """
    value = os.environ.get(TRUSTED_KEYS)
    if not value:
        return None
    directory = Path(os.path.expanduser(value))
    require_absolute(directory, TRUSTED_KEYS)
    return directory
