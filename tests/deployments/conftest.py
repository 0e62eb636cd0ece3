"""Ray cluster on this machine, for modules without special requirements."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.cluster import running

from deployments.local import LocalCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Yield a cluster of 4 CPUs, one per module."""
    with running(tmp_path_factory.mktemp("ray") / "state", cpus=4) as started:
        yield started
