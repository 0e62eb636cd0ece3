"""Routes whose targets are killed, frozen, replaced or slow, and clients that disconnect."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import serve_config
from support.http_client import Answer, Raw, ask
from support.load import Load, request_body
from support.titles import replica_pids
from support.wait import WITHIN_S, until

from deployments.local import LocalCluster

ITEM = (1, 16, 16)
JSON = {"Content-Type": "application/json"}

ROUTES: list[dict[str, Any]] = [
    {"name": "some", "kind": "ensemble", "targets": ["two", "one"], "min_answers": 1},
    {"name": "all", "kind": "ensemble", "targets": ["two", "one"]},
    {"name": "hedged", "kind": "hedge", "target": "two", "budget": 0.5},
    {"name": "through", "kind": "canary", "target": "two", "candidate": "one", "share": 0},
    {"name": "idle", "kind": "canary", "target": "slow", "candidate": "two", "share": 0},
    {"name": "late", "kind": "ensemble", "targets": ["two", "slow"]},
    {"name": "first", "kind": "quorum", "k": 1, "targets": ["two", "slow"]},
]

Deploy = Callable[..., str]


@pytest.fixture
def deploy(cluster: LocalCluster, int8_artifact_store: Path, tmp_path: Path) -> Deploy:
    """Return ``deploy(**of_two)`` → the URL of all models; ``of_two``: more args of ``two``.

    ``two`` has two replicas, ``one`` has one. ``slow`` waits a second for a full batch.
    """

    def deployed(**of_two: Any) -> str:
        models: dict[str, dict[str, Any]] = {
            "two": {"replicas": 2, **of_two},
            "one": {},
            "slow": {"batching": {"max_batch_size": 8, "max_wait_ms": 1000}},
        }
        applications = [
            serve_config.model(name, artifact, int8_artifact_store, **args)
            for name, args in models.items()
            for artifact in [args.pop("artifact", "tiny-int8")]
        ]
        config = serve_config.write(tmp_path, *applications, serve_config.router(ROUTES))
        cluster.deploy(config, timeout_s=WITHIN_S)
        url = f"{cluster.http}/v2/models"
        # Serve reports RUNNING until it notices the fault of an earlier test.
        until(lambda: all(len(replicas(cluster, m)) == 1 + (m == "two") for m in models))
        until(lambda: answered(url, "all") and answered(url, "idle"))
        return url

    return deployed


def replicas(cluster: LocalCluster, app: str) -> list[int]:
    """Return the process ids of an application's replicas, sorted."""
    return sorted(replica_pids(cluster, app))


def infer(url: str, route: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(f"{url}/{route}/infer", request_body(ITEM), {**JSON, **named})


def answered(url: str, route: str) -> bool:
    answer = infer(url, route)
    return answer.status == 200 and "partial" not in answer.json.get("parameters", {})


@pytest.mark.slow
@pytest.mark.fault("a target of a route is killed")
def test_killed_target_is_replaced_while_others_answer(
    cluster: LocalCluster, deploy: Deploy
) -> None:
    url = deploy()
    (killed,) = replicas(cluster, "one")
    with Load(f"{url}/some/infer", request_body(ITEM), clients=2) as load:
        time.sleep(0.3)
        os.kill(killed, signal.SIGKILL)
        time.sleep(1.0)
        # The route that requires both waits for the replica, or names the missing target.
        strict = infer(url, "all", x_request_timeout_seconds="0.5")
        until(lambda: answered(url, "all"))
        time.sleep(0.3)
    assert Counter(request.status for request in load.requests).keys() == {200}
    parameters = [json.loads(request.body).get("parameters", {}) for request in load.requests]
    reasons = [answer["branch.one.reason"] for answer in parameters if answer.get("partial")]
    assert reasons, "no answer was partial while the target was unavailable"
    assert all("one" in reason for reason in reasons)
    assert "partial" not in parameters[-1]
    assert strict.status in (503, 504)
    outcomes = {branch["target"]: branch["outcome"] for branch in strict.json["branches"]}
    assert outcomes["one"] in ("failed", "late")
    assert max(request.ended - request.started for request in load.requests) < 2


@pytest.mark.slow
@pytest.mark.fault("a replica behind a route freezes")
def test_frozen_replica_is_hedged_and_then_avoided(cluster: LocalCluster, deploy: Deploy) -> None:
    url = deploy()
    for _ in range(60):  # fills the percentile and the budget
        assert infer(url, "hedged").status == 200
    frozen = replicas(cluster, "two")[0]
    os.kill(frozen, signal.SIGSTOP)
    try:
        durations_s = []
        for _ in range(40):
            started = time.monotonic()
            assert infer(url, "hedged").status == 200
            durations_s.append(time.monotonic() - started)
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert max(durations_s) < 1, durations_s
    # One or two requests reach it; later ones avoid it.
    assert sum(duration_s > 0.2 for duration_s in durations_s) <= 2, durations_s


@pytest.mark.fault("a model behind a route is replaced")
@pytest.mark.parametrize(
    "route",
    [
        "through",
        pytest.param("hedged", marks=pytest.mark.slow),
        pytest.param("all", marks=pytest.mark.slow),
    ],
)
def test_model_replacement_under_load_fails_no_request(
    cluster: LocalCluster,
    deploy: Deploy,
    bf16_artifact_store: Path,
    capsys: pytest.CaptureFixture[str],
    route: str,
) -> None:
    url = deploy()
    before = set(replicas(cluster, "two"))
    with Load(f"{url}/{route}/infer", request_body(ITEM), clients=4) as load:
        time.sleep(0.5)
        # The same model in another precision, unknown to the router when it was deployed.
        assert (bf16_artifact_store / "names" / "tiny-bf16").exists()
        deploy(artifact="tiny-bf16")
        until(lambda: not before & set(replicas(cluster, "two")))
        time.sleep(0.5)
    seen = Counter(request.status for request in load.requests)
    with capsys.disabled():
        print(f"\n  replaced under load: {dict(seen)}")
    assert seen.keys() == {200}, [request for request in load.requests if request.status != 200][:3]
    assert seen[200] > 100


@pytest.mark.slow
@pytest.mark.fault("a client leaves a route amid its request")
def test_disconnected_client_cancels_its_branches(cluster: LocalCluster, deploy: Deploy) -> None:
    url = deploy()
    (slow,) = replicas(cluster, "slow")
    assert answered(url, "idle")  # the router reuses this connection
    before = connections(slow)
    assert before > 0
    body = request_body(ITEM)
    with Raw(cluster.record.http_port) as client:
        # One piece: HAProxy 2.8 misses the disconnect of a client whose body arrived later.
        client.send(
            b"POST /v2/models/idle/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        time.sleep(0.2)
        client.abort()
        started = time.monotonic()
        until(lambda: connections(slow) < before)
    # Without the cancellation it would compute after a second, and stay connected for four.
    assert time.monotonic() - started < 0.7


@pytest.mark.fault("a target of a route answers too late")
def test_client_deadline_returns_504_with_all_branches(
    cluster: LocalCluster, deploy: Deploy
) -> None:
    url = deploy()
    answer = ask(
        f"{url}/late/infer", request_body(ITEM), {**JSON, "x-request-timeout-seconds": "0.4"}
    )
    assert answer.status == 504, answer
    assert answer.json["error"].startswith("too few answers: slow: ")
    branches = {branch["target"]: branch for branch in answer.json["branches"]}
    assert {name: branch["outcome"] for name, branch in branches.items()} == {
        "two": "ok",
        "slow": "late",
    }
    assert branches["slow"]["ms"] > 300


@pytest.mark.slow
def test_quorum_cancels_late_branches(cluster: LocalCluster, deploy: Deploy) -> None:
    url = deploy()
    (slow,) = replicas(cluster, "slow")
    assert answered(url, "idle")
    before = connections(slow)
    started = time.monotonic()
    assert answered(url, "first")
    until(lambda: connections(slow) < before)
    assert time.monotonic() - started < 0.7


def connections(pid: int) -> int:
    """Return the number of open connections to a replica's HTTP port, one of 30000 to 31000."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            sockets.add(os.readlink(link))
    count = 0
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        port, established = int(fields[1].rpartition(":")[2], 16), fields[3] == "01"
        mine = f"socket:[{fields[9]}]" in sockets
        count += mine and established and 30_000 <= port < 31_000
    return count


@pytest.mark.slow
def test_invalid_route_is_rejected_and_old_routes_still_answer(
    cluster: LocalCluster, deploy: Deploy, tmp_path: Path
) -> None:
    url = deploy()
    config = yaml.safe_load((tmp_path / "serve.yaml").read_text())
    router = config["applications"][-1]
    router["args"]["routes"] = [{"name": "lost", "kind": "hedge", "target": "nobody"}]
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(Exception, match=r"route lost: no model or route is called 'nobody'"):
        cluster.deploy(tmp_path / "wrong.yaml", timeout_s=WITHIN_S)
    # Models and the router's old routes still answer.
    assert infer(url, "all").status == 200
    assert infer(url, "two").status == 200


@pytest.mark.slow
def test_ten_thousand_requests_leak_no_memory_and_no_files(
    cluster: LocalCluster, deploy: Deploy
) -> None:
    url = deploy()
    (router,) = replicas(cluster, "router")

    def send_load(seconds: float) -> int:
        with Load(f"{url}/all/infer", request_body(ITEM), clients=8) as load:
            time.sleep(seconds)
        assert {request.status for request in load.requests} == {200}
        return len(load.requests)

    count = send_load(10)  # caches and pools reach their size
    rss, files = resident(router), len(list(Path(f"/proc/{router}/fd").iterdir()))
    while count < 12_000:
        count += send_load(10)
    time.sleep(6)  # idle connections end
    assert resident(router) - rss < 8 * 2**20
    assert len(list(Path(f"/proc/{router}/fd").iterdir())) <= files + 4


def resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
