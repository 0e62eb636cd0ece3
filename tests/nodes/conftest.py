"""Head and three nodes with separate addresses, and the applications that they serve.

cluster ─→ first_start_s ─→ served ─→ test ─→ nothing_is_left checks
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import figures
import pytest
from network import missing
from ray_nodes import Nodes
from served_nodes import Served
from support.leftovers import left_behind, wait_for_nothing_left

from deployments.ray.time_limits import MAX_REQUEST_TIMEOUT_VARIABLE

NODES = 3


@pytest.fixture(scope="package")
def cluster(
    bf16_artifact_store: Path, cut_artifact_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nodes]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        # The default is a minute; a request to a silent node lasts that long.
        patch.setenv(MAX_REQUEST_TIMEOUT_VARIABLE, "10")
        with Nodes(tmp_path_factory.mktemp("nodes")) as started:
            for _ in range(NODES):
                started.add()
            yield started
        assert not [host.name for host in started.network.hosts if host.is_there]


@pytest.fixture(scope="package")
def first_start_s(cluster: Nodes, bf16_artifact_store: Path, cut_artifact_store: Path) -> float:
    """Return the seconds until all applications serve on this machine, without any load."""
    started = time.monotonic()
    Served(cluster, bf16_artifact_store, cut_artifact_store).deploy()
    return time.monotonic() - started


@pytest.fixture
def served(
    cluster: Nodes, first_start_s: float, bf16_artifact_store: Path, cut_artifact_store: Path
) -> Served:
    """Return three nodes; ``tiny`` on two of them, ``cut`` in two stages on different ones."""
    if not cluster.head.runs:
        cluster.start_head()
    cluster.wait(cluster.alive, "the head knows no node", 30)
    for node in cluster.running:
        node.host.mend()
        if node.host.address not in cluster.alive():  # declared dead, about to end by itself
            node.kill()
    # Before the test: the head notices a killed node only after a timeout.
    addresses = {node.host.address for node in cluster.running}
    cluster.wait(lambda: set(cluster.alive()) == addresses, "the head knows others", 30)
    for _ in range(NODES - len(cluster.running)):
        cluster.add()
    served = Served(cluster, bf16_artifact_store, cut_artifact_store)
    served.deploy()
    return served


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: Nodes) -> Iterator[None]:
    """Check after every test for orphaned processes, actors and placement groups.

    Each shard must also be in its replica's placement group.
    """
    yield

    def orphans() -> list[str]:
        cluster.keep_head()
        homes = {row["node_id"]: row["node_ip"] for row in cluster.listed("nodes")}
        actors = [row | {"node": homes.get(row["node_id"])} for row in cluster.listed("actors")]
        return left_behind(
            cluster.client.call(cluster.dashboard.applications),
            actors,
            cluster.listed("placement_groups"),
            cluster.processes(),
        )

    wait_for_nothing_left(orphans)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in figures.table():
        terminalreporter.write_line(line)
