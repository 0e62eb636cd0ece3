"""The artifact that a model serves: its name resolved once, its signature checked on every node.

    bind        ModelArgs → store → id → signed? → manifest → BoundModel    once, at deployment
    open_bound  BoundModel → signed? → the artifact of that id              in every process

A name moves on when its recipe is built again. Everything that belongs to one deployment must
therefore take the id that was bound when it was deployed, and look no name up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.artifact.artifact import Artifact
from cluster.artifact.manifest import Manifest
from cluster.artifact.printable import printable
from cluster.artifact.references import name_in
from cluster.artifact.store import ArtifactStore, open_store
from cluster.config.guarded_files import require_absolute
from cluster.config.serving import ModelArgs
from cluster.errors import ArtifactError, ConfigError

TRUSTED_KEYS = "HEADRACE_TRUSTED_KEYS"
"""Environment variable: directory with the PEM files of trusted public keys, on every node."""


@dataclass(frozen=True)
class BoundModel:
    """A model's args, with the artifact that they stood for when the model was deployed."""

    args: ModelArgs
    artifact_id: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """Name of the model in URLs."""
        return self.args.name

    @property
    def reference(self) -> str:
        """``NAME@ID`` of the artifact, for configs and operators."""
        return f"{self.manifest.name}@{self.artifact_id}"


def bind(args: ModelArgs, artifact: str | None = None) -> BoundModel:
    """Resolve the artifact of a model and read its manifest.

    ``artifact``: reference to use in place of ``args.artifact``. With ``require_signature`` it
    raises ArtifactUntrustedError unless a trusted key has signed the artifact, and ConfigError if
    no trusted keys can be read. ArtifactError if a reference ``NAME@ID`` has another artifact's
    name, else as ``ArtifactStore.open`` raises.
    """
    reference = artifact or args.artifact
    store = open_store(args.store)
    artifact_id = store.find(reference)
    _require_signature(args, artifact_id, store)
    manifest = store.manifest(artifact_id)
    name = name_in(reference)
    if name not in (None, manifest.name):
        raise ArtifactError(
            f"model {args.name}: artifact {reference:.100}: the artifact of this id is named "
            f"{printable(manifest.name)}; give {manifest.name}@{artifact_id[:12]}"
        )
    return BoundModel(args, artifact_id, manifest)


def open_bound(model: BoundModel) -> Artifact:
    """Open the artifact that a model was bound to.

    Errors of :func:`bind` for a signature, ArtifactNotFoundError if the store has lost the id.
    """
    store = open_store(model.args.store)
    # Before the download: an unsigned artifact must not fill the disk.
    _require_signature(model.args, model.artifact_id, store)
    return store.fetch(model.artifact_id)


def _require_signature(args: ModelArgs, artifact_id: str, store: ArtifactStore) -> None:
    if args.require_signature:
        _require_signed(args, artifact_id, store.signatures(artifact_id))


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
