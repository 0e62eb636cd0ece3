"""Table of the serving benchmark's contenders."""

from __future__ import annotations

from benchmarks.artifacts.reference import Weights
from benchmarks.contenders import headrace
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.script import scripted


def _peer(
    key: str, title: str, weights: Weights, module: str, path: str, ready_path: str | None = None
) -> Contender:
    return scripted(key, title, weights, f"benchmarks.servers.{module}", path, ready_path)


CONTENDERS: dict[str, Contender] = {
    contender.key: contender
    for contender in (
        Contender("headrace", "Headrace", "int8", headrace.endpoint, headrace.start),
        _peer("mosec", "mosec", "int8", "mosec_server", "/inference"),
        _peer("litserve", "LitServe", "int8", "litserve_server", "/predict", "/health"),
        _peer("ray-serve-int8", "Ray Serve, plain", "int8", "ray_serve_server", "/"),
        _peer("ray-serve-fp32", "Ray Serve, plain, eager", "fp32", "ray_serve_server", "/"),
    )
}
"""Contenders by key."""
