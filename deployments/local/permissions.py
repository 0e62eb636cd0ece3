"""Files and directories that a command needs, looked at before it starts anything.

secrets (a token, API keys)  → for their owner alone
a store that is served from  → there, and readable
a store that is built into   → writable, which only writing tells: root may and yet cannot
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster.artifact.store import default_store
from cluster.config.guarded_files import require_private
from cluster.errors import ConfigError
from deployments.http.keys import FILE_VARIABLE

SECRET_FILES = ("RAY_AUTH_TOKEN_PATH", FILE_VARIABLE)
"""Environment variables that name a file with secrets."""


def require_private_secrets(environment: Mapping[str, str]) -> None:
    """ConfigError for a file of :data:`SECRET_FILES` that anybody but its owner can read."""
    for variable in SECRET_FILES:
        if path := environment.get(variable):
            require_private(Path(path), f"{variable}={path}")


def require_readable(store: str | None, who: str) -> None:
    """ConfigError if the store is a directory that cannot be read; ``who`` is served from it."""
    location = store or default_store()
    if "://" in location:  # its file system says so when it is asked
        return
    try:
        os.listdir(Path(location).expanduser())
    except OSError as error:
        raise ConfigError(
            f"{who}: store {location}: cannot be read: {error.strerror}; name another with `store` "
            "or HEADRACE_STORE, or build an artifact into it with `headrace compress`"
        ) from None


def require_writable(store: str | None) -> None:
    """ConfigError if the store is a directory in which nothing can be kept."""
    location = store or default_store()
    if "://" in location:
        return
    path = Path(location).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(
            f"store {location}: cannot be written: {error.strerror}; give a directory of yours "
            "with --store or HEADRACE_STORE, or the rights to this one"
        ) from None
