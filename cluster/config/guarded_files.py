"""Checks of files that decide permissions: refused if others than their owner have access.

a secret (private key, token, API keys) → a file that only its owner can read
a trusted key                           → a file and a directory that only their owner can change
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from cluster.errors import ConfigError


def require_absolute(path: Path, variable: str) -> None:
    """Raise ConfigError if the path in an environment variable is relative."""
    if not path.is_absolute():
        raise ConfigError(
            f"{variable}={path}: expected an absolute path, because replicas run in other "
            f"directories; give {path.absolute()}"
        )


def require_file(path: Path, what: str) -> int:
    """Return the permission bits of a regular file.

    ConfigError, beginning with ``what``, for anything else: a directory cannot be read, and a pipe
    may never end.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{what}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise ConfigError(f"{what}: expected a file, got {kind}; give the path of the file itself")
    return stat.S_IMODE(mode)


def require_private(path: Path, what: str) -> None:
    """Raise ConfigError, beginning with ``what``, unless only its owner can read the file."""
    mode = require_file(path, what)
    if mode & 0o077:
        raise ConfigError(
            f"{what}: others can read or change it (mode {mode:o}): `chmod 600 "
            f"{shlex.quote(str(path))}`, and make a new secret if this one may have been copied"
        )


def require_unchanged_by_others(path: Path, what: str) -> None:
    """Raise ConfigError, beginning with ``what``, if others can change a file or directory.

    A read-only file system passes with any mode: Kubernetes mounts a Secret as a directory with
    mode 1777.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError as error:
        raise ConfigError(f"{what}: cannot be read: {error.strerror}") from None
    if mode & 0o022 and not read_only:
        raise ConfigError(
            f"{what}: others can change it (mode {mode:o}), and thus add trusted keys: `chmod "
            f"go-w {shlex.quote(str(path))}`"
        )
