"""Ray session of this process: its directory, and secrets shared by its processes."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path


def session_directory() -> Path:
    """Return the directory of this node's session, which is removed with the session.

    Outside of Ray: the directory for temporary files.
    """
    import ray  # imported late: the command line imports this module, and needs no Ray

    node = ray._private.worker._global_node
    return Path(tempfile.gettempdir() if node is None else node.get_session_dir_path())


def shared_secret(name: bytes) -> str:
    """Return the cluster's secret of that name; the first call creates it.

    64 hexadecimal digits, stored in the GCS, which only processes of the cluster can reach.
    """
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(name, secrets.token_hex(32).encode(), overwrite=False)
    return str(internal_kv._internal_kv_get(name).decode())


def share_name(group: str, name: str) -> None:
    """Add a name to a group that all processes of the cluster read."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(_key(group, name), b"1")


def shared_names(group: str) -> list[str]:
    """Return the names in a group, in any order."""
    from ray.experimental import internal_kv

    prefix = _key(group, "")
    keys = internal_kv._internal_kv_list(prefix)
    return [bytes(key).removeprefix(prefix).decode() for key in keys]


def forget_name(group: str, name: str) -> None:
    """Remove a name from a group."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(_key(group, name))


def _key(group: str, name: str) -> bytes:
    return f"{group}/{name}".encode()
