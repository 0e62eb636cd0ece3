"""How each server is started and stopped: the table of contenders."""

from __future__ import annotations

from benchmarks.contender import Contender
from benchmarks.contenders import headrace
from benchmarks.contenders.script import scripted

CONTENDERS: dict[str, Contender] = {
    contender.key: contender
    for contender in (
        Contender("headrace", "Headrace", "int8", headrace.endpoint, headrace.start),
        scripted("mosec", "mosec", "int8", "mosec_server", "/inference", None),
        scripted("litserve", "LitServe", "int8", "litserve_server", "/predict", "/health"),
        scripted("ray-serve-int8", "Ray Serve, plain", "int8", "ray_serve_server", "/", None),
        scripted(
            "ray-serve-fp32", "Ray Serve, plain, eager", "fp32", "ray_serve_server", "/", None
        ),
    )
}
