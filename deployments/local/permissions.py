"""Checks of files and directories that a command needs, before it starts anything.

secrets (a token, API keys)  → private to their owner
store of served artifacts    → exists, readable
store of built artifacts     → writable, checked by writing: root may lack permission, too
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
"""Environment variables that name files with secrets."""


def require_private_secrets(environment: Mapping[str, str]) -> None:
    """Raise ConfigError for a file of :data:`SECRET_FILES` that others than its owner can read."""
    for variable in SECRET_FILES:
        if path := environment.get(variable):
            require_private(Path(path), f"{variable}={path}")


def require_readable(store: str | None, model: str) -> None:
    """Raise ConfigError if the store is an unreadable directory; messages name the ``model``."""
    location = store or default_store()
    if "://" in location:  # a remote file system reports errors at the first access
        return
    try:
        os.listdir(Path(location).expanduser())
    except OSError as error:
        raise ConfigError(
            f"{model}: store {location}: cannot be read: {error.strerror}; name another with "
            "`store` or HEADRACE_STORE, or build an artifact into it with `headrace compress`"
        ) from None


def require_writable(store: str | None) -> None:
    """Raise ConfigError if the store is a directory without write access."""
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
            f"store {location}: cannot be written: {error.strerror}; name a writable directory "
            "with --store or HEADRACE_STORE, or change the permissions of this one"
        ) from None
