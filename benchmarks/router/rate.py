"""Requests per second of a router whose model costs nothing, on small requests.

one target      scatter with a single part: the least that a route does
two targets     an ensemble
model           the same model asked without a router
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import load, proc
from benchmarks.compression_build import Builder
from benchmarks.contenders import headrace
from benchmarks.goal import Goal
from benchmarks.router import artifacts
from benchmarks.router.results import ERRORS, Figures
from cluster.artifact.store import default_store
from deployments.local.ports import free_ports

_MODELS = ("trivial", "trivial-too")
_ROUTES = {
    "one target": {"name": "through", "kind": "scatter", "target": _MODELS[0]},
    "two targets": {"name": "both", "kind": "ensemble", "targets": list(_MODELS)},
}
_UNDER_WAY = 16
_CPUS = 4
_WARM_UP_S = 3

LEAST_PER_S = 600


def prepared(builder: Builder, scratch: Path, seconds: int) -> Callable[[], Figures]:
    """One round."""
    artifact_id = artifacts.trivial(builder)
    body = scratch / "trivial"
    body.write_bytes(artifacts.trivial_item().tobytes())

    def one_round() -> Figures:
        port = free_ports(1)[0]
        with headrace.running(port, num_cpus=_CPUS) as cluster:
            models = [
                {"name": name, "artifact": artifact_id, "store": default_store()}
                for name in _MODELS
            ]
            headrace.deploy(cluster, *models, routes=list(_ROUTES.values()))
            (router,) = headrace.replicas(cluster, headrace.SERVER)
            names = {"model": _MODELS[0]} | {who: r["name"] for who, r in _ROUTES.items()}
            return {
                who: _measured(port, str(name), body, router, seconds)
                for who, name in names.items()
            }

    return one_round


def _measured(port: int, name: str, body: Path, router: int, seconds: int) -> dict[str, float]:
    endpoint = headrace.endpoint(port, name)
    load.post(endpoint, body, _UNDER_WAY, _WARM_UP_S)
    alone = load.post(endpoint, body, 1, seconds)
    time.sleep(1)
    before = proc.cpu_s(router)
    many = load.post(endpoint, body, _UNDER_WAY, seconds)
    spent = proc.cpu_s(router) - before
    found = {
        "p50 ms at c=1": alone.p50_ms,
        f"req/s at c={_UNDER_WAY}": many.requests_per_s,
        ERRORS: alone.errors + many.errors,
    }
    if name not in _MODELS:
        found["req per CPU second of the router"] = many.requests / spent
    return found


def goals(figures: Figures) -> tuple[Goal, ...]:
    """What one router has to manage."""
    return tuple(
        Goal(
            claim=f"requests per second, {who}, all on the machine's cores", at_least=True,
            measured=figures[who][f"req/s at c={_UNDER_WAY}"], limit=LEAST_PER_S, unit="",
        )
        for who in _ROUTES
    )  # fmt: skip
