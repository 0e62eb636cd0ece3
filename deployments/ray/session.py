"""The Ray session that this process belongs to: its directory, and secrets of its processes."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path


def session_directory() -> Path:
    """Return the directory of this node's session, removed with it.

    A process outside of Ray gets the directory for temporary files.
    """
    import ray  # the command line imports modules that import this one, and needs no Ray

    node = ray._private.worker._global_node
    return Path(tempfile.gettempdir() if node is None else node.get_session_dir_path())


def shared_secret(name: bytes) -> str:
    """Return the cluster's secret of that name, made by the first process that wants it.

    64 hexadecimal digits, kept in the GCS, which only processes of the cluster reach.
    """
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(name, secrets.token_hex(32).encode(), overwrite=False)
    return str(internal_kv._internal_kv_get(name).decode())
