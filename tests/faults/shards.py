"""Process ids of shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from deployments.local import LocalCluster, processes

SHARD = b"ray::ShardActor"


def shard_pids(cluster: LocalCluster) -> list[int]:
    """Return the process ids of all shards, sorted."""
    running = processes.find(cluster.record.cluster_id, cluster.record.run_dir)
    return sorted(process.pid for process in running if _is_shard(process.pid))


def shard_at(cluster: LocalCluster, stage: int) -> int:
    """Return the process id of a shard of a stage, from `headrace inspect --replicas`."""
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli.main", "inspect", "--replicas", "--json"],
        env={**os.environ, **cluster.environment(), "HOME": str(cluster.record.state_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    shards = json.loads(done.stdout)["shards"]
    return int(next(shard["pid"] for shard in shards if shard["stage"] == stage))


def _is_shard(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(SHARD)
    except (FileNotFoundError, ProcessLookupError):  # it has ended since
        return False
