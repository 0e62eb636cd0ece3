"""Request that ends the replica which computes it: the others refuse it, and keep serving."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from http.client import RemoteDisconnected
from pathlib import Path

import pytest
from ending_model import ABORTS, KILLS
from support.http_client import Answer, ask
from support.load import request_body
from support.titles import replica_pids
from support.wait import WITHIN_S, until

from cluster.artifact.local import LocalStore
from cluster.compression import job
from cluster.config.base import parse
from cluster.config.recipe import Recipe
from deployments.local import LocalCluster

ITEM = (1, 16, 16)
REPLICAS = 3
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with ``ending``: the eager program of ``ending_model``, untrained."""
    raw = {
        "name": "ending",
        "model": {
            "source": "python:ending_model:ending",
            "image": {"size": 16, "channels": 1, "mean": [0.5], "std": [0.5]},
        },
        "data": {"source": "digits"},
        "evaluation": {"repeats": 5, "batches": [1]},
        "programs": [{"kinds": ["eager"]}],
        "gate": {"max_accuracy_drop": None, "min_speedup": None, "max_size_share": None},
    }
    root = tmp_path_factory.mktemp("ending")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
        outcome = job.run(parse(raw, Recipe, "recipe"), LocalStore(root), print)
    assert outcome.artifact is not None
    return root


def with_pixel(body: bytes, pixel: float) -> bytes:
    """Return the body of an infer request with another first number."""
    request = json.loads(body)
    request["inputs"][0]["data"][0] = pixel
    return json.dumps(request).encode()


def answer_to(url: str, body: bytes) -> Answer | None:
    """Return the answer; None if the connection closed without one."""
    try:
        return ask(url, body, JSON)
    except (RemoteDisconnected, ConnectionError):
        return None


def replicas_up(cluster: LocalCluster, model: str) -> int:
    """Return the number of a model's replicas that HAProxy sends requests to."""
    stats = ask(f"http://127.0.0.1:{cluster.record.stats_port}/stats;csv").body.decode()
    return sum(
        model in server["# pxname"]
        and server["svname"].startswith("SERVE_REPLICA_")
        and server["status"] == "UP"
        for server in csv.DictReader(stats.splitlines())
    )


@pytest.mark.slow
@pytest.mark.fault("a request ends the replica that computes it")
@pytest.mark.parametrize(
    ("pixel", "lost", "served"),
    [
        pytest.param(ABORTS, 1, 19, id="abort"),
        # Somebody else may have killed the first replica: the request has a second chance, alone.
        pytest.param(KILLS, 2, 5, id="kill"),
    ],
)
def test_repeated_fatal_request_leaves_replicas_serving(
    cluster: LocalCluster,
    store: Path,
    write_config: Callable[..., Path],
    pixel: float,
    lost: int,
    served: int,
) -> None:
    name = f"ending{lost}"  # no replicas of the other test
    args = {"name": name, "artifact": "ending", "store": str(store), "replicas": REPLICAS}
    cluster.deploy(write_config(args), timeout_s=WITHIN_S)
    until(lambda: replicas_up(cluster, name) == REPLICAS)
    before = replica_pids(cluster, name)
    assert len(before) == REPLICAS
    url = f"{cluster.http}/v2/models/{name}/infer"
    good = request_body(ITEM)
    fatal = with_pixel(good, pixel)

    seen: Counter[int | None] = Counter()

    def refused_four_times() -> bool:
        answer = answer_to(url, fatal)
        seen[None if answer is None else answer.status] += 1
        if answer is not None and answer.status == 400:
            assert "has ended a process of the server" in answer.error
        return seen[400] == 4

    until(refused_four_times, lambda: seen)
    assert seen[None] + seen[502] <= lost, seen
    # HAProxy answers with 503 if all its attempts meet ended replicas.
    assert seen.keys() <= {None, 400, 502, 503}, seen
    assert len(before & replica_pids(cluster, name)) >= REPLICAS - lost
    answers = [answer_to(url, good) for _ in range(20)]
    statuses = Counter(None if answer is None else answer.status for answer in answers)
    assert statuses[200] >= served, statuses

    until(lambda: len(replica_pids(cluster, name) - before) == lost)  # they are replaced
    until(lambda: replicas_up(cluster, name) == REPLICAS)
    until(lambda: _all_refuse(cluster, url, fatal))


def _all_refuse(cluster: LocalCluster, url: str, fatal: bytes) -> bool:
    """Whether a row of requests, over all replicas, is refused by each."""
    answers = [answer_to(url, fatal) for _ in range(3 * REPLICAS)]
    return all(answer is not None and answer.status == 400 for answer in answers)
