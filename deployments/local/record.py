"""Files of a local cluster, and the record of a running one.

state directory (0700)   lock          held while a cluster starts or stops
                         auth_token    the token, 0600
                         cluster.json  the record, 0600, written before any process starts
run directory (0700)     r/  Ray's sessions and logs      h/  HAProxy's files and sockets
                         t/  temporary files
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cluster.errors import ClusterError
from deployments.local.ports import free_ports

# Not TMPDIR, because a Unix socket's path has 107 bytes at most: HAProxy appends up to 12 while it
# binds, and Ray adds up to 66 (its own) or 72 (HAProxy's) to the 22 of the run directory.
_RUN_PARENT = Path("/tmp")  # noqa: S108
_RUN_PREFIX = "headrace-"


@dataclass(frozen=True)
class ClusterRecord:
    """Record of a cluster in ``cluster.json``: its id, ports and directories."""

    cluster_id: str
    state_dir: Path
    run_dir: Path
    http_port: int
    dashboard_port: int
    gcs_port: int
    agent_port: int
    client_port: int
    stats_port: int
    metrics_port: int
    fallback_port: int

    @classmethod
    def create(cls, state_dir: Path, http_port: int, dashboard_port: int) -> Self:
        """Create the run directory and the token, choose ports, write ``cluster.json``."""
        # Two more than needed, because the two given ports may be among them.
        others = (port for port in free_ports(8) if port not in (http_port, dashboard_port))
        record = cls(
            cluster_id=secrets.token_hex(8),
            state_dir=state_dir,
            run_dir=Path(tempfile.mkdtemp(prefix=_RUN_PREFIX, dir=_RUN_PARENT)),
            http_port=http_port,
            dashboard_port=dashboard_port,
            gcs_port=next(others),
            agent_port=next(others),
            client_port=next(others),
            stats_port=next(others),
            metrics_port=next(others),
            fallback_port=next(others),
        )
        record.temporary_dir.mkdir(mode=0o700)
        _write_private(record.token_path, secrets.token_hex(32))
        fields = {name: str(v) if isinstance(v, Path) else v for name, v in vars(record).items()}
        _write_private(_path(state_dir), json.dumps(fields, indent=1))
        return record

    @classmethod
    def read(cls, state_dir: Path) -> Self | None:
        """Return the record in ``state_dir``; None if there is none.

        Raises :class:`ClusterError` if the file is not from this version.
        """
        path = _path(state_dir)
        try:
            raw = json.loads(path.read_text())
            for name in ("state_dir", "run_dir"):
                raw[name] = Path(raw[name])
            record = cls(**raw)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{path} is not a record of a local cluster ({error}); if none of your clusters "
                "runs, remove it"
            ) from error
        # The directory will be removed with its content, so it must be one of Headrace.
        if record.run_dir.parent != _RUN_PARENT or not record.run_dir.name.startswith(_RUN_PREFIX):
            raise ClusterError(
                f"{path} names {record.run_dir}, expected a run directory "
                f"{_RUN_PARENT / _RUN_PREFIX}*; remove the file"
            )
        return record

    def remove(self) -> None:
        """Remove the run directory, the token and, last, ``cluster.json``."""
        if self.run_dir.exists():
            shutil.rmtree(self.run_dir)
        self.token_path.unlink(missing_ok=True)
        _path(self.state_dir).unlink(missing_ok=True)

    @property
    def token_path(self) -> Path:
        return self.state_dir / "auth_token"

    @property
    def ray_dir(self) -> Path:
        return self.run_dir / "r"

    @property
    def haproxy_dir(self) -> Path:
        return self.run_dir / "h"

    @property
    def temporary_dir(self) -> Path:
        return self.run_dir / "t"

    @property
    def dashboard(self) -> str:
        """URL of the dashboard and of its REST API."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def ports(self) -> dict[int, str]:
        """Ports of the cluster, each with the name of its listener."""
        return {
            getattr(self, field.name): field.name.removesuffix("_port")
            for field in dataclasses.fields(self)
            if field.name.endswith("_port")
        }


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Create ``state_dir`` if needed and hold its lock; :class:`ClusterError` if it is held."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"another process is starting or stopping the cluster of {state_dir}; "
                "wait for it to finish"
            ) from None
        yield


def _path(state_dir: Path) -> Path:
    return state_dir / "cluster.json"


def _write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, from its first byte on."""
    path.unlink(missing_ok=True)  # an existing file would keep its permissions
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode != 0o600:
        raise ClusterError(
            f"{path} has mode {mode:o}, expected 600; choose a state directory on a file system "
            "with permissions"
        )
