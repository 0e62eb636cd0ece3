"""Several nodes as one cluster: stages on different nodes, a shared store, a node that joins."""

from __future__ import annotations

import time

import numpy as np
import pytest
from figures import measured
from served_nodes import ITEM_SHAPE, Served
from steady_load import binary_request

from cluster.artifact.local import LocalStore
from cluster.program.program import load


def test_stages_on_different_nodes_equal_whole_model(served: Served) -> None:
    served.spread_cut()
    (home,) = served.homes("cut")
    whole = load(LocalStore(served.cut_store).open("tiny-cut"), compute_threads=1)
    items = np.random.default_rng(1).standard_normal((3, *ITEM_SHAPE)).astype(np.float32)

    answer = served.ask(home, "/v2/models/cut/infer", *binary_request("input", items))

    assert answer.status == 200, answer
    length = int(answer.headers["inference-header-content-length"])
    logits = np.frombuffer(answer.body[length:], np.float32).reshape(3, -1)
    np.testing.assert_array_equal(logits, whole.run([items])[0])


@pytest.mark.slow
def test_nodes_serve_same_artifact_from_shared_store(served: Served) -> None:
    served.deploy(replicas=3)
    replicas = served.replicas("tiny")
    assert len({replica["node_ip"] for replica in replicas}) == 3
    versions = {served.ask_replica(replica, "/v2/models/tiny").body for replica in replicas}
    assert len(versions) == 1  # the same artifact, read by three nodes


@pytest.mark.slow
def test_load_spreads_to_joined_node(served: Served) -> None:
    entry = served.homes("tiny")[0]
    started = time.monotonic()
    joined = served.cluster.add()
    joining_s = time.monotonic() - started
    with served.load("tiny", entry, clients=8) as load:
        served.deploy(replicas=4)  # one on each node, so also on the new one
        served.cluster.wait(
            lambda: len(served.requests_by_server(entry)) == 4,
            "HAProxy does not know all replicas",
            20,
        )
        before = served.requests_by_server(entry)
        time.sleep(4)
        after = served.requests_by_server(entry)
    assert not load.failed, load.summary()
    assert joined.host.address in served.homes("tiny")
    gained = [after[server] - before[server] for server in before]
    # A quarter each, if all nodes were equally fast.
    assert min(gained) > 0.1 * sum(gained), gained
    measured("a node joins: `ray start` to known to the head", f"{joining_s:.1f} s")
    measured("... least share of the requests, of four", f"{min(gained) / sum(gained):.0%}", "25 %")
