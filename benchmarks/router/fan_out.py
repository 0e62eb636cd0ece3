"""An ensemble of two ResNet-18 of which each has a replica, one request at a time.

one, other       each model asked alone
both at once     by two clients: what two programs on these cores cost each other
ensemble         the route: mean of the probabilities
Ray Serve        the same by hand, in a cluster of its own
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks import load, reference
from benchmarks.compression_build import Builder
from benchmarks.contender import Endpoint
from benchmarks.contenders import headrace
from benchmarks.contenders.script import scripted
from benchmarks.errors import BenchmarkError
from benchmarks.goal import Goal
from benchmarks.images import request_images
from benchmarks.in_process import COMPUTE_THREADS
from benchmarks.results import Load
from benchmarks.router import artifacts
from benchmarks.router.results import ERRORS, Figures
from benchmarks.startup import StartupWatch
from benchmarks.verify import TOLERANCE, ask, difference
from cluster.artifact.store import default_store
from cluster.routing.ensemble import probabilities
from deployments.local.ports import free_ports

_MODELS = ("one", "other")
_ROUTE = "ensemble"
_PLAIN = scripted("ray-fanout", "Ray Serve, by hand", "int8", "ray_fanout_server", "/", None)
_CPUS = 4
_WARM_UP_S = 2
_MANY = 8

OVERHEAD_MS = 2.5


def prepared(builder: Builder, scratch: Path, seconds: int) -> Callable[[], Figures]:
    """One round."""
    artifact_id = artifacts.resnet18()
    logits = reference.logits(artifact_id, "int8", scratch)
    expected = probabilities(logits)  # both targets are the same model: so is their mean
    bodies = []
    for number, image in enumerate(request_images(len(expected))):
        bodies.append(scratch / f"image-{number}")
        bodies[-1].write_bytes(np.ascontiguousarray(image).tobytes())
    contents = [body.read_bytes() for body in bodies]

    def measured(endpoint: Endpoint) -> dict[str, float]:
        load.post(endpoint, bodies[0], 1, _WARM_UP_S)
        alone = load.post(endpoint, bodies[0], 1, seconds)
        many = load.post(endpoint, bodies[0], _MANY, seconds)
        return {**_latency(alone), f"req/s at c={_MANY}": many.requests_per_s,
                ERRORS: alone.errors + many.errors}  # fmt: skip

    def ours() -> Figures:
        port = free_ports(1)[0]
        with headrace.running(port, num_cpus=_CPUS) as cluster:
            headrace.deploy(
                cluster,
                *(_model(name, artifact_id) for name in _MODELS),
                routes=[{"name": _ROUTE, "kind": "ensemble", "targets": list(_MODELS)}],
            )
            endpoints = [headrace.endpoint(port, name) for name in _MODELS]
            route = headrace.endpoint(port, _ROUTE)
            _check(endpoints[0], contents, logits)
            _check(route, contents, expected)
            found = {
                name: measured(endpoint) for name, endpoint in zip(_MODELS, endpoints, strict=True)
            }
            with ThreadPoolExecutor(len(endpoints)) as pool:
                both = list(
                    pool.map(lambda each: load.post(each, bodies[0], 1, seconds), endpoints)
                )
            found["both at once"] = _latency(max(both, key=lambda each: each.p50_ms))
            found[_ROUTE] = measured(route)
        return found

    def by_hand() -> Figures:
        port = free_ports(1)[0]
        endpoint = _PLAIN.endpoint(port)
        with (
            StartupWatch(endpoint, contents[0]) as watch,
            _PLAIN.start(artifact_id, port) as server,
        ):
            watch.wait_ready(server.require_alive)
            time.sleep(_WARM_UP_S)
            _check(endpoint, contents, expected)
            return {_PLAIN.title: measured(endpoint)}

    return lambda: ours() | by_hand()


def goals(figures: Figures) -> tuple[Goal, ...]:
    """What the fan-out may cost."""
    slower = max(figures[name]["p50 ms"] for name in _MODELS)
    return (
        Goal(
            claim="p50 of the ensemble over the slower model's", at_least=False, unit=" ms",
            measured=figures[_ROUTE]["p50 ms"] - slower, limit=OVERHEAD_MS,
        ),
        Goal(
            claim="p50 to the same by hand in Ray Serve", at_least=False, unit="×",
            measured=figures[_ROUTE]["p50 ms"] / figures[_PLAIN.title]["p50 ms"], limit=1.0,
        ),
    )  # fmt: skip


def _model(name: str, artifact_id: str) -> dict[str, object]:
    return {
        "name": name,
        "artifact": artifact_id,
        "store": default_store(),
        "compute_threads": COMPUTE_THREADS,
        "batching": {"max_batch_size": 8},
    }


def _check(endpoint: Endpoint, bodies: Sequence[bytes], expected: np.ndarray) -> None:
    """One by one: kernels for several items round int8 otherwise than those for one."""
    found = difference(np.stack([ask(endpoint, body) for body in bodies]), expected)
    if found > TOLERANCE:
        raise BenchmarkError(
            f"{endpoint.url} answers otherwise than the model in-process: by {found:.2g} of the "
            f"largest value, allowed are {TOLERANCE:g}"
        )


def _latency(found: Load) -> dict[str, float]:
    return {"p50 ms": found.p50_ms, "p99 ms": found.p99_ms}
