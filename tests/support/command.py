"""The ``headrace`` command as a process in a home of its own, and the directories that it leaves.

A cluster's run directory is in /tmp whatever TMPDIR is, beside those of other clusters. The
cluster's record in the home names it as long as the cluster runs, so it is read meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from cluster.errors import ClusterError
from deployments.local.processes import find
from deployments.local.record import ClusterRecord

SOON_S = 60
"""Bound in seconds of a command that starts no cluster and no build."""

_POLL_S = 0.1


class Command:
    """Command with this home and its own TMPDIR; ``environment`` is added to this process's."""

    def __init__(self, home: Path, temporary: Path, **environment: str) -> None:
        for directory in (home, temporary):
            directory.mkdir()
        self.home, self.temporary = home, temporary
        self.clusters: set[ClusterRecord] = set()
        """All clusters that it has started, the stopped ones included."""
        inherited = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
        self._environment = {
            **inherited,
            "HOME": str(home),
            "TMPDIR": str(temporary),
            **environment,
        }

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start ``headrace ARGUMENTS`` and return its process."""
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("headrace")), *map(str, arguments)],
            env=self._environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, *arguments: object, timeout_s: float = SOON_S, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``headrace ARGUMENTS`` to its end; after ``timeout_s`` it is killed."""
        process = self.start(*arguments, **environment)
        deadline = time.monotonic() + timeout_s
        while True:
            self._note()
            try:
                output, errors = process.communicate(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    process.kill()
                    process.communicate()
                    raise
            else:
                return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def runs_cluster(self) -> bool:
        """Return whether a process of its clusters runs."""
        self._note()
        return any(find(cluster.cluster_id, cluster.run_dir) for cluster in self.clusters)

    def directories_left(self) -> list[Path]:
        """Return the run directories and temporary files of this home's commands."""
        run_dirs = (cluster.run_dir for cluster in self.clusters)
        return [*(path for path in run_dirs if path.exists()), *self.temporary.iterdir()]

    def assert_nothing_left(self) -> None:
        """Check that there was a cluster, and that no process or directory of one is left."""
        assert self.clusters
        assert not self.runs_cluster()
        assert self.directories_left() == []

    def _note(self) -> None:
        for state_dir in (*self.home.glob(".headrace/local"), *self.home.glob(".headrace/jobs/*")):
            with suppress(ClusterError):  # being written
                if (record := ClusterRecord.read(state_dir)) is not None:
                    self.clusters.add(record)
