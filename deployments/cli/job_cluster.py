"""The cluster of ``headrace compress`` if no other is configured.

the local cluster, if one runs → that one
otherwise                      → one for this process alone, recorded in ~/.headrace/jobs/PID
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from deployments.local import LocalCluster, ports

JOBS_DIR = Path("~/.headrace/jobs")
"""State directories of jobs' clusters, named by the process that started each."""


@contextmanager
def job_cluster() -> Iterator[LocalCluster]:
    """Yield the running local cluster, or a new one that is stopped at the end.

    The remains of a killed command are stopped first.
    """
    stop_job_clusters(abandoned_only=True)
    if (running := LocalCluster.running()) is not None:
        yield running
        return
    http_port, dashboard_port = ports.free_ports(2)
    state_dir = JOBS_DIR.expanduser() / str(os.getpid())
    try:
        cluster = LocalCluster.start(
            http_port=http_port, dashboard_port=dashboard_port, state_dir=state_dir
        )
        yield cluster
    finally:
        _stop(state_dir)


def stop_job_clusters(*, abandoned_only: bool = False) -> bool:
    """Stop the clusters of jobs, or those whose process has ended; False if there were none."""
    stopped = False
    for state_dir in JOBS_DIR.expanduser().glob("[0-9]*"):
        if not (abandoned_only and psutil.pid_exists(int(state_dir.name))):
            stopped |= _stop(state_dir)
    return stopped


def _stop(state_dir: Path) -> bool:
    """Stop the cluster of ``state_dir`` and remove the directory, once nothing needs it."""
    stopped = LocalCluster.stop_recorded(state_dir)
    shutil.rmtree(state_dir, ignore_errors=True)  # empty but for a lock file
    return stopped
