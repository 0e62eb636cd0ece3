"""The head dies and comes back with what its storage holds; requests do not notice.

The last of these tests, on purpose: Ray 2.60's GCS ends by itself when, after it has come back, a
node is lost that has a part of a placement group from before, and comes back once more then.
"""

from __future__ import annotations

import time

import pytest
from figures import measured
from served_nodes import Served

HEAD_BACK_S = 60
HEAD_BACK_STARTS = 10
"""On a slow machine: in starts of a head that nobody uses, of which this one, beside clients and
models on the same cores, may need two."""


@pytest.mark.fault("the head is killed, and started again")
def test_traffic_goes_on_without_a_head_and_the_head_recovers(served: Served) -> None:
    homes = served.homes("tiny")
    (cut_home,) = served.homes("cut")
    before = {replica["actor_id"] for replica in served.replicas("tiny")}

    back_s = max(HEAD_BACK_S, HEAD_BACK_STARTS * served.cluster.first_head_start_s)

    def back() -> bool:
        served.cluster.keep_head()
        return served.is_whole(2)

    with served.load("tiny", *homes) as load, served.load("cut", cut_home) as cut_load:
        time.sleep(1)
        served.cluster.head.kill()
        time.sleep(5)
        started = time.monotonic()
        starts = served.cluster.head_starts
        served.cluster.start_head()
        served.cluster.wait(back, "not all is back", back_s)
        seconds = time.monotonic() - started
        starts = served.cluster.head_starts - starts
        time.sleep(3)  # its controller looks after the replicas again
        told = served.cluster.run("ray.serve.scripts", "status")
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("status: RUNNING") == 2, told.stdout
    assert not load.failed, load.told()
    assert not cut_load.failed, cut_load.told()
    assert {replica["actor_id"] for replica in served.replicas("tiny")} == before
    measured("the head is killed: requests failed", load.failures, "0")
    measured("... of a model in stages on two nodes", cut_load.failures, "0")
    measured(
        "... `ray start` to all applications running", f"{seconds:.1f} s", f"≤ {HEAD_BACK_S} s"
    )
    measured("... how often it ended by itself meanwhile", starts - 1)
    assert seconds <= back_s


@pytest.mark.slow
def test_a_recovered_head_takes_a_new_config(served: Served) -> None:
    served.cluster.head.kill()
    served.cluster.start_head()
    served.wait_for(2)
    served.deploy(replicas=3)
    assert len(served.homes("tiny")) == 3
    assert set(served.statuses().values()) == {"RUNNING"}
