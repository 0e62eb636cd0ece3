"""Requests per second of a router whose model costs nothing, on small requests.

model           the model without a router
one target      scatter with a single part, the cheapest route
two targets     an ensemble
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.artifacts import trivial
from benchmarks.contenders import headrace, process_facts
from benchmarks.harness.case import Context, PreparedCase
from benchmarks.harness.goals import Goal, at_least
from benchmarks.harness.results import ERRORS, Figures, Medians, Reading
from benchmarks.harness.rounds import readings
from benchmarks.load import wrk
from cluster.artifact.store import default_store
from deployments.local.ports import free_ports

_MODELS = ("trivial", "trivial-too")
_ROUTES: dict[str, dict[str, Any]] = {
    "one target": {"name": "through", "kind": "scatter", "target": _MODELS[0]},
    "two targets": {"name": "both", "kind": "ensemble", "targets": list(_MODELS)},
}
_CONCURRENCY = 16
_CPUS = 4
_WARM_UP_S = 3

LEAST_PER_S = 600


def prepare(context: Context) -> PreparedCase:
    """Build the model; a turn measures it and both routes in one cluster."""
    artifact_id = trivial.build(context.store)
    body = context.scratch / "trivial"
    body.write_bytes(trivial.item().tobytes())

    def turn() -> list[Reading]:
        port = free_ports(1)[0]
        with headrace.running(port, num_cpus=_CPUS) as cluster:
            models = [
                {"name": name, "artifact": artifact_id, "store": default_store()}
                for name in _MODELS
            ]
            headrace.deploy(cluster, *models, routes=list(_ROUTES.values()))
            (router,) = headrace.replicas(cluster, headrace.SERVER)
            names = {"model": _MODELS[0]}
            names |= {subject: str(route["name"]) for subject, route in _ROUTES.items()}
            return readings(
                {
                    subject: _measured(port, name, body, router, context.seconds)
                    for subject, name in names.items()
                }
            )

    return PreparedCase({"headrace": turn}, goals)


def goals(medians: Medians) -> tuple[Goal, ...]:
    """Return the goal of each route."""
    return tuple(
        at_least(
            f"requests per second, {subject}, all on the machine's cores",
            medians[subject][f"req/s at c={_CONCURRENCY}"],
            LEAST_PER_S,
            unit="",
        )
        for subject in _ROUTES
    )


def _measured(port: int, name: str, body: Path, router: int, seconds: int) -> Figures:
    endpoint = headrace.endpoint(port, name)
    wrk.post(endpoint, body, _CONCURRENCY, _WARM_UP_S)
    one = wrk.post(endpoint, body, 1, seconds)
    time.sleep(1)
    before = process_facts.cpu_s(router)
    many = wrk.post(endpoint, body, _CONCURRENCY, seconds)
    cpu_s = process_facts.cpu_s(router) - before
    figures = {
        "p50 ms at c=1": one.p50_ms,
        f"req/s at c={_CONCURRENCY}": many.requests_per_s,
        ERRORS: float(one.errors + many.errors),
    }
    if name not in _MODELS:
        figures["req per CPU second of the router"] = many.requests / cpu_s
    return figures
