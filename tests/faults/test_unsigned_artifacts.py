"""Model that requires a signature: rejected with the reason until a trusted key has signed it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.http_client import ask

from cluster.artifact import signature
from cluster.artifact.local import LocalStore
from cluster.errors import ClusterError
from deployments.local import LocalCluster


@pytest.mark.slow
@pytest.mark.fault("an artifact is not signed")
def test_artifact_is_served_only_if_signed_by_trusted_key(
    cluster: LocalCluster,
    signing_key: Path,
    cut_artifact_store: Path,
    write_config: Callable[..., Path],
    tmp_path: Path,
) -> None:
    shutil.copytree(cut_artifact_store, tmp_path / "store")
    store = LocalStore(tmp_path / "store")
    artifact_id = str(store.open("tiny-cut").id)
    signed = {"artifact": "tiny-cut", "store": str(store.root), "require_signature": True}
    config = write_config(
        {"name": "whole", **signed}, {"name": "cut", **signed, "parallel": {"pipeline": 2}}
    )
    with pytest.raises(ClusterError, match=rf"failed:(.|\n)*{artifact_id}(.|\n)*is not signed"):
        cluster.deploy(config, timeout_s=60)
    for name in ("whole", "cut"):
        assert ask(f"{cluster.http}/v2/models/{name}").status != 200

    signature_file = signature.sign(artifact_id, signature.read_private_key(signing_key))
    store.keep_signature(artifact_id, signature_file.key_id, signature_file.content)
    cluster.deploy(config, timeout_s=60)
    for name in ("whole", "cut"):
        assert ask(f"{cluster.http}/v2/models/{name}").status == 200
