"""``headrace down``: stop the local cluster."""

from __future__ import annotations

import argparse

from deployments.cli.job_cluster import stop_job_clusters
from deployments.local import LocalCluster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``headrace down``: none."""


def run(args: argparse.Namespace) -> int:
    """Stop the local cluster and those of jobs, with everything that belongs to them."""
    stopped = [LocalCluster.stop_recorded(), stop_job_clusters()]
    print("stopped" if any(stopped) else "no local cluster is running")
    return 0
