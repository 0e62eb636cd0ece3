"""Two replicas of a ResNet-18, one of them ten times slower: the slowest requests.

model, as it was    before one replica is slowed
model               without a router: Serve chooses the replica
through             by a route without hedging: the router chooses the replica
hedge               by a route that sends a second request after the measured p95
"""

from __future__ import annotations

import numpy as np

from benchmarks.artifacts import resnet18
from benchmarks.artifacts.images import request_images
from benchmarks.contenders import headrace
from benchmarks.harness.case import Context, PreparedCase
from benchmarks.harness.goals import Goal, at_most
from benchmarks.harness.results import Figures, Medians, Reading
from benchmarks.harness.rounds import readings
from benchmarks.load import wrk
from benchmarks.load.closed_loop import ask_all
from benchmarks.router.slowing import slowed
from deployments.local.ports import free_ports

_MODEL = "model"
_ROUTES = (
    {"name": "through", "kind": "scatter", "target": _MODEL},
    {"name": "hedge", "kind": "hedge", "target": _MODEL},
)
_SLOWER = 10
_CPUS = 4
_WARM_UP_S = 5

P99_SHARE, EXTRA = 0.5, 5.0


def prepare(context: Context) -> PreparedCase:
    """Build the model; a turn measures it and both routes in one cluster."""
    artifact_id = resnet18.build(context.store)
    content = request_images(1).tobytes()
    body = context.scratch / "image"
    body.write_bytes(content)

    def measured(port: int, name: str) -> Figures:
        endpoint = headrace.endpoint(port, name)
        wrk.post(endpoint, body, 1, _WARM_UP_S)
        _, ten_s = ask_all(endpoint, [content] * 10, 1)
        answers, _ = ask_all(endpoint, [content] * round(10 * context.seconds / ten_s), 1)
        ms = [answer.ms for answer in answers]
        hedged = sum(bool(answer.parameters.get("hedged")) for answer in answers)
        return {
            "p50 ms": float(np.percentile(ms, 50)),
            "p95 ms": float(np.percentile(ms, 95)),
            "p99 ms": float(np.percentile(ms, 99)),
            "requests": len(ms),
            "extra work %": hedged / len(ms) * 100,
        }

    def turn() -> list[Reading]:
        port = free_ports(1)[0]
        with headrace.running(port, num_cpus=_CPUS) as cluster:
            model = headrace.model_args(_MODEL, artifact_id, replicas=2)
            headrace.deploy(cluster, model, routes=_ROUTES)
            figures = {"model, as it was": measured(port, _MODEL)}
            slow, _ = headrace.replicas(cluster, _MODEL)
            with slowed(slow, _SLOWER):
                names = (_MODEL, *(str(route["name"]) for route in _ROUTES))
                figures |= {name: measured(port, name) for name in names}
            return readings(figures)

    return PreparedCase({"headrace": turn}, goals)


def goals(medians: Medians) -> tuple[Goal, ...]:
    """Return the goals: half the p99, for few extra requests."""
    hedge = medians["hedge"]
    to_model, to_route = (hedge["p99 ms"] / medians[name]["p99 ms"] for name in (_MODEL, "through"))
    return (
        at_most("p99 of the hedge, to the model without a router", to_model, P99_SHARE),
        at_most("p99 of the hedge, to the same route without hedging", to_route, P99_SHARE),
        at_most("second requests of the hedge", hedge["extra work %"], EXTRA, " %"),
    )
