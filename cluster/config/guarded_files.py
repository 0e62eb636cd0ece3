"""Files that decide who may do what: refused where others than their owner reach them.

a secret (private key, token, API keys) → a file that its owner alone can read
a key that is trusted                   → a file and a directory that nobody else can change
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from cluster.errors import ConfigError


def require_absolute(path: Path, variable: str) -> None:
    """ConfigError if the path in an environment variable is relative."""
    if not path.is_absolute():
        raise ConfigError(
            f"{variable}={path}: expected an absolute path: replicas run in directories of their "
            f"own, where a relative one is another; give {path.absolute()}"
        )


def require_file(path: Path, what: str) -> int:
    """The permission bits of a regular file; ConfigError, beginning with ``what``, for anything
    else: a directory cannot be read, and a pipe might never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{what}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise ConfigError(f"{what}: expected a file, got {kind}; give the path of the file itself")
    return stat.S_IMODE(mode)


def require_private(path: Path, what: str) -> None:
    """ConfigError, beginning with ``what``, unless it is a file that its owner alone can read."""
    mode = require_file(path, what)
    if mode & 0o077:
        raise ConfigError(
            f"{what}: others can read or change it (mode {mode:o}): `chmod 600 "
            f"{shlex.quote(str(path))}`, and make a new secret if somebody may have copied this one"
        )


def require_unchanged_by_others(path: Path, what: str) -> None:
    """ConfigError, beginning with ``what``, if others than its owner can change a file, or what is
    in a directory.

    On a file system that is mounted read-only nobody can, whatever the mode: Kubernetes mounts a
    Secret as a directory with mode 1777.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError as error:
        raise ConfigError(f"{what}: cannot be read: {error.strerror}") from None
    if mode & 0o022 and not read_only:
        raise ConfigError(
            f"{what}: others can change it (mode {mode:o}), and with it who is trusted: `chmod "
            f"go-w {shlex.quote(str(path))}`"
        )
