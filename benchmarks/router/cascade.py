"""Cascade of a ResNet-20 and a ResNet-56, which answers where the first is not sure.

All held-out photographs of CIFAR-10, over HTTP, in batches: accuracy and images per second are of
the same answers. Each model has as many replicas as the machine has cores.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.artifacts.builder import Builder, environment
from benchmarks.contenders import headrace
from benchmarks.harness.case import Context, PreparedCase
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.goals import Goal, at_least, at_most
from benchmarks.harness.results import Figures, Medians, Reading
from benchmarks.harness.rounds import readings
from benchmarks.load.closed_loop import ask_all
from benchmarks.router import cifar
from cluster.artifact.store import default_store, open_store
from cluster.config.plain_yaml import format_yaml
from cluster.config.recipe import Recipe
from cluster.data import PreparedSamples, load_data
from deployments.local.ports import free_ports

_BATCH = 32
_IN_FLIGHT = 8
_REPLICAS = 2
_CPUS = 6
_LABELS = 10
_AGREEMENT = "0.94"
"""Agreement that the threshold is calibrated for, on photographs that are not measured."""

_ROUTE = "cascade"

DROP_POINTS, SPEED_UP = 0.2, 1.8

NOTES = (f"Batches of {_BATCH}, {_IN_FLIGHT} in flight, {_REPLICAS} replicas of each model.",)


def prepare(student_int8: bool, teacher_int8: bool, context: Context) -> PreparedCase:
    """Build both models and calibrate the threshold; a turn measures all photographs once."""
    builder = Builder(context.store)
    student = cifar.student(builder, student_int8)
    teacher = cifar.teacher(builder, teacher_int8)
    models = [_model("student", student), _model("teacher", teacher)]
    route = {
        "name": _ROUTE,
        "kind": "cascade",
        "targets": ["student", "teacher"],
        "thresholds": "calibrated",
    }
    config = context.scratch / "serve.yaml"
    config.write_text(format_yaml(headrace.serve_config(*models, routes=[route])))
    _calibrate(config)
    images, labels = _held_out(teacher)
    bodies = [images[n : n + _BATCH].tobytes() for n in range(0, len(images), _BATCH)]

    def measured(port: int, name: str) -> Figures:
        endpoint = headrace.endpoint(port, name)
        ask_all(endpoint, bodies[:_IN_FLIGHT], _IN_FLIGHT)
        answers, duration_s = ask_all(endpoint, bodies, _IN_FLIGHT)
        scores = np.concatenate([answer.output for answer in answers]).reshape(-1, _LABELS)
        figures = {
            "accuracy %": float((scores.argmax(1) == labels).mean()) * 100,
            "images/s": len(images) / duration_s,
            "p50 ms": float(np.median([answer.ms for answer in answers])),
        }
        if name == _ROUTE:
            by_teacher = sum(answer.parameters["answered_by.teacher"] for answer in answers)
            figures["goes on %"] = by_teacher / len(images) * 100
        return figures

    def turn() -> list[Reading]:
        port = free_ports(1)[0]
        with headrace.running(port, num_cpus=_CPUS) as cluster:
            headrace.deploy(cluster, *models, routes=[route])
            return readings({n: measured(port, n) for n in ("student", "teacher", _ROUTE)})

    return PreparedCase({"headrace": turn}, goals, {"student": student, "teacher": teacher})


def goals(medians: Medians) -> tuple[Goal, ...]:
    """Return the goals: as accurate as the teacher, and faster."""
    cascade, teacher = medians[_ROUTE], medians["teacher"]
    lost = teacher["accuracy %"] - cascade["accuracy %"]
    return (
        at_most("accuracy lost to the teacher", lost, DROP_POINTS, " points"),
        at_least("throughput, to the teacher", cascade["images/s"] / teacher["images/s"], SPEED_UP),
    )


def _model(name: str, artifact_id: str) -> dict[str, Any]:
    return {
        "name": name,
        "artifact": artifact_id,
        "store": default_store(),
        "replicas": _REPLICAS,
        "batching": {"max_batch_size": _BATCH},
    }


def _calibrate(config: Path) -> None:
    command = [sys.executable, "-m", "deployments.cli.main", "calibrate", str(config), _ROUTE]
    done = subprocess.run([*command, "--agreement", _AGREEMENT], env=environment(), check=False)
    if done.returncode != 0:
        raise BenchmarkError("the cascade was not calibrated: see above")


def _held_out(artifact_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the photographs that no threshold is chosen on, and their labels.

    Float32 ``[N, 3, 32, 32]`` and ``[N]``.
    """
    manifest = open_store(default_store()).open(artifact_id).manifest
    recipe = Recipe.model_validate(manifest.recipe)
    samples = load_data(recipe.data, recipe.seed).test
    prepared = PreparedSamples(samples, manifest.inputs, manifest.image, None)
    arrays, _ = prepared.batch(range(len(prepared)))
    return arrays[0], np.asarray(samples.labels)
