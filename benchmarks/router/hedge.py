"""Two replicas of a ResNet-18, one of them ten times slower than it was: the slowest requests.

model         asked without a router: Serve chooses the replica
through       by a route without hedging: the router chooses the replica
hedge         by a route that asks the other replica after the measured p95

"as it was" is the model before one replica was slowed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import load
from benchmarks.compression_build import Builder
from benchmarks.contenders import headrace
from benchmarks.goal import Goal
from benchmarks.images import request_images
from benchmarks.router import artifacts
from benchmarks.router.client import ask_all
from benchmarks.router.results import Figures
from benchmarks.router.slowing import slowed
from cluster.artifact.store import default_store
from deployments.local.ports import free_ports

_MODEL = "model"
_ROUTES = (
    {"name": "through", "kind": "scatter", "target": _MODEL},
    {"name": "hedge", "kind": "hedge", "target": _MODEL},
)
_SLOWER = 10
_UNDER_WAY = 1
_CPUS = 4
_WARM_UP_S = 5

P99_SHARE, EXTRA = 0.5, 5.0


def prepared(builder: Builder, scratch: Path, seconds: int) -> Callable[[], Figures]:
    """One round."""
    artifact_id = artifacts.resnet18()
    content = request_images(1).tobytes()
    body = scratch / "image"
    body.write_bytes(content)

    def measured(port: int, name: str) -> dict[str, float]:
        endpoint = headrace.endpoint(port, name)
        load.post(endpoint, body, _UNDER_WAY, _WARM_UP_S)
        _, ten_s = ask_all(endpoint, [content] * 10, _UNDER_WAY)
        answers, _ = ask_all(endpoint, [content] * round(10 * seconds / ten_s), _UNDER_WAY)
        ms = [each.ms for each in answers]
        hedged = sum(bool(each.parameters.get("hedged")) for each in answers)
        return {
            "p50 ms": float(np.percentile(ms, 50)),
            "p95 ms": float(np.percentile(ms, 95)),
            "p99 ms": float(np.percentile(ms, 99)),
            "requests": len(ms),
            "extra work %": hedged / len(ms) * 100,
        }

    def one_round() -> Figures:
        port = free_ports(1)[0]
        with headrace.running(port, num_cpus=_CPUS) as cluster:
            args = {
                "name": _MODEL,
                "artifact": artifact_id,
                "store": default_store(),
                "replicas": 2,
                "batching": {"max_batch_size": 8},
            }
            headrace.deploy(cluster, args, routes=_ROUTES)
            found = {"model, as it was": measured(port, _MODEL)}
            slow, _ = headrace.replicas(cluster, _MODEL)
            with slowed(slow, _SLOWER):
                names = (_MODEL, *(str(route["name"]) for route in _ROUTES))
                found |= {name: measured(port, name) for name in names}
            return found

    return one_round


def goals(figures: Figures) -> tuple[Goal, ...]:
    """Half the p99, for little."""
    hedge = figures["hedge"]
    return (
        Goal(
            claim="p99 of the hedge, to the model without a router", at_least=False, unit="×",
            measured=hedge["p99 ms"] / figures[_MODEL]["p99 ms"], limit=P99_SHARE,
        ),
        Goal(
            claim="p99 of the hedge, to the same route without hedging", at_least=False, unit="×",
            measured=hedge["p99 ms"] / figures["through"]["p99 ms"], limit=P99_SHARE,
        ),
        Goal(
            claim="second requests of the hedge", at_least=False, unit=" %",
            measured=hedge["extra work %"], limit=EXTRA,
        ),
    )  # fmt: skip
