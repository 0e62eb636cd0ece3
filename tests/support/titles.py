"""Processes of a cluster by the titles that Ray gives them, some of which may end meanwhile."""

from __future__ import annotations

from contextlib import suppress

import psutil

from deployments.local import LocalCluster, processes
from support.wait import until


def pids_titled(cluster: LocalCluster, title: str) -> set[int]:
    """Return the processes of a local cluster whose title begins with ``title``."""
    pids = set()
    for process in processes.find(cluster.record.cluster_id, cluster.record.run_dir):
        with suppress(psutil.NoSuchProcess):  # ended since it was listed
            if " ".join(psutil.Process(process.pid).cmdline()).startswith(title):
                pids.add(process.pid)
    return pids


def replica_pids(cluster: LocalCluster, model: str) -> set[int]:
    """Return the processes of a model's replicas."""
    return pids_titled(cluster, f"ray::ServeReplica:{model}:")


def replica_pid(cluster: LocalCluster, model: str) -> int:
    """Wait until a model has one replica's process, and return it."""
    pids = until(lambda: pids if len(pids := replica_pids(cluster, model)) == 1 else set())
    return min(pids)
