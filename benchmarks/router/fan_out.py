"""Ensemble of two ResNet-18 with a replica each, one request at a time.

one, other       each model alone
both at once     each with a client: the cost of two programs on the same cores
ensemble         the route: mean of the probabilities
Ray Serve        the same by hand, in a cluster of its own
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.artifacts import reference, resnet18
from benchmarks.contenders import headrace
from benchmarks.contenders.contender import Endpoint
from benchmarks.contenders.script import scripted
from benchmarks.harness.case import Context, PreparedCase
from benchmarks.harness.goals import Goal, at_most
from benchmarks.harness.results import ERRORS, Figures, Medians, Reading
from benchmarks.harness.rounds import readings
from benchmarks.load import wrk
from benchmarks.load.startup import StartupWatch
from benchmarks.load.verify import ask, difference, require_close
from cluster.activation import probabilities
from deployments.local.ports import free_ports

_MODELS = ("one", "other")
_ROUTE = "ensemble"
_PEER = scripted(
    "ray-fanout",
    "Ray Serve, by hand",
    "int8",
    "benchmarks.router.ray_fanout_server",
    "/",
    None,
)
_CPUS = 4
_WARM_UP_S = 2
_MANY = 8

OVERHEAD_MS = 2.5


def prepare(context: Context) -> PreparedCase:
    """Build the model and compute the answers of the route."""
    artifact_id = resnet18.build(context.store)
    logits = reference.logits(artifact_id, "int8", context.scratch)
    expected = probabilities(logits, "softmax")  # both targets are the same model, as is their mean
    bodies = reference.write_bodies(context.scratch)
    contents = [body.read_bytes() for body in bodies]

    def measured(endpoint: Endpoint) -> Figures:
        wrk.post(endpoint, bodies[0], 1, _WARM_UP_S)
        one = wrk.post(endpoint, bodies[0], 1, context.seconds)
        many = wrk.post(endpoint, bodies[0], _MANY, context.seconds)
        return {
            **_latency(one),
            f"req/s at c={_MANY}": many.requests_per_s,
            ERRORS: one.errors + many.errors,
        }

    def both_at_once(endpoints: Sequence[Endpoint]) -> Figures:
        with ThreadPoolExecutor(len(endpoints)) as pool:
            pending = [
                pool.submit(wrk.post, endpoint, bodies[0], 1, context.seconds)
                for endpoint in endpoints
            ]
            loads = [future.result() for future in pending]
        return _latency(max(loads, key=lambda load: load.p50_ms))

    def by_route() -> list[Reading]:
        port = free_ports(1)[0]
        with headrace.running(port, num_cpus=_CPUS) as cluster:
            headrace.deploy(
                cluster,
                *(headrace.model_args(name, artifact_id) for name in _MODELS),
                routes=[{"name": _ROUTE, "kind": "ensemble", "targets": list(_MODELS)}],
            )
            endpoints = {name: headrace.endpoint(port, name) for name in _MODELS}
            route = headrace.endpoint(port, _ROUTE)
            _check(endpoints[_MODELS[0]], contents, logits)
            _check(route, contents, expected)
            figures = {name: measured(endpoint) for name, endpoint in endpoints.items()}
            figures["both at once"] = both_at_once(list(endpoints.values()))
            figures[_ROUTE] = measured(route)
        return readings(figures)

    def by_hand() -> list[Reading]:
        port = free_ports(1)[0]
        endpoint = _PEER.endpoint(port)
        with (
            StartupWatch(endpoint, contents[0]) as watch,
            _PEER.start(artifact_id, port) as server,
        ):
            watch.wait_ready(server.require_alive)
            time.sleep(_WARM_UP_S)
            _check(endpoint, contents, expected)
            return readings({_PEER.title: measured(endpoint)})

    return PreparedCase({"headrace": by_route, "ray-serve": by_hand}, goals)


def goals(medians: Medians) -> tuple[Goal, ...]:
    """Return the goals of the fan-out's cost."""
    slower = max(medians[name]["p50 ms"] for name in _MODELS)
    p50, by_hand = medians[_ROUTE]["p50 ms"], medians[_PEER.title]["p50 ms"]
    return (
        at_most("p50 of the ensemble over the slower model's", p50 - slower, OVERHEAD_MS, " ms"),
        at_most("p50 to the same by hand in Ray Serve", p50 / by_hand, 1.0),
    )


def _check(endpoint: Endpoint, bodies: Sequence[bytes], expected: np.ndarray) -> None:
    """Compare answers one by one: int8 kernels round several items otherwise than one."""
    answers = np.stack([ask(endpoint, body) for body in bodies])
    require_close(endpoint, difference(answers, expected))


def _latency(load: wrk.Load) -> Figures:
    return {"p50 ms": load.p50_ms, "p99 ms": load.p99_ms}
