"""A ResNet-20 that asks a ResNet-56 where it is not sure, beside the ResNet-56 alone.

All held-out photographs of CIFAR-10, over HTTP, in batches: the accuracy and the images per second
are of the same answers. Both have as many replicas as there are cores, so each way may use all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from benchmarks.compression_build import Builder, environment
from benchmarks.contenders import headrace
from benchmarks.errors import BenchmarkError
from benchmarks.goal import Goal
from benchmarks.router import artifacts
from benchmarks.router.client import ask_all
from benchmarks.router.results import Figures
from cluster.artifact.store import default_store, open_store
from cluster.config.recipe import Recipe
from cluster.data import PreparedSamples, load_data
from deployments.local.ports import free_ports

_BATCH = 32
_UNDER_WAY = 8
_REPLICAS = 2
_CPUS = 6
_LABELS = 10
_AGREEMENT = "0.94"
"""What the threshold is calibrated for, on other photographs than those that are measured."""

_ROUTE = "cascade"

DROP_POINTS, SPEED_UP = 0.2, 1.8

NOTES = (f"Batches of {_BATCH}, {_UNDER_WAY} under way, {_REPLICAS} replicas of each model.",)


def prepared(
    student_int8: bool, teacher_int8: bool, builder: Builder, scratch: Path, seconds: int
) -> Callable[[], Figures]:
    """One round: all photographs once, however many ``seconds`` that takes."""
    student = artifacts.student(builder, student_int8)
    teacher = artifacts.teacher(builder, teacher_int8)
    models = [_model("student", student), _model("teacher", teacher)]
    route = {
        "name": _ROUTE,
        "kind": "cascade",
        "targets": ["student", "teacher"],
        "thresholds": "calibrated",
    }
    config = scratch / "serve.yaml"
    config.write_text(yaml.safe_dump(headrace.serve_config(*models, routes=[route])))
    _calibrate(config)
    images, labels = _held_out(teacher)
    bodies = [images[n : n + _BATCH].tobytes() for n in range(0, len(images), _BATCH)]

    def measured(port: int, name: str) -> dict[str, float]:
        endpoint = headrace.endpoint(port, name)
        ask_all(endpoint, bodies[:_UNDER_WAY], _UNDER_WAY)
        answers, took_s = ask_all(endpoint, bodies, _UNDER_WAY)
        scores = np.concatenate([each.output for each in answers]).reshape(-1, _LABELS)
        found = {
            "accuracy %": float((scores.argmax(1) == labels).mean()) * 100,
            "images/s": len(images) / took_s,
            "p50 ms": float(np.median([each.ms for each in answers])),
        }
        if name == _ROUTE:
            went_on = sum(each.parameters["answered_by.teacher"] for each in answers)
            found["goes on %"] = went_on / len(images) * 100
        return found

    def one_round() -> Figures:
        port = free_ports(1)[0]
        with headrace.running(port, num_cpus=_CPUS) as cluster:
            headrace.deploy(cluster, *models, routes=[route])
            return {name: measured(port, name) for name in ("student", "teacher", _ROUTE)}

    return one_round


def goals(figures: Figures) -> tuple[Goal, ...]:
    """Near the teacher, and much faster."""
    cascade, teacher = figures[_ROUTE], figures["teacher"]
    return (
        Goal(
            claim="accuracy lost to the teacher", at_least=False, unit=" points",
            measured=teacher["accuracy %"] - cascade["accuracy %"], limit=DROP_POINTS,
        ),
        Goal(
            claim="throughput, to the teacher", at_least=True, unit="×",
            measured=cascade["images/s"] / teacher["images/s"], limit=SPEED_UP,
        ),
    )  # fmt: skip


def _model(name: str, artifact_id: str) -> dict[str, object]:
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
    """What the threshold was not chosen on: float32 ``[N, 3, 32, 32]``, labels ``[N]``."""
    manifest = open_store(default_store()).open(artifact_id).manifest
    recipe = Recipe.model_validate(manifest.recipe)
    samples = load_data(recipe.data, recipe.seed).test
    prepared = PreparedSamples(samples, manifest.inputs, manifest.image, None)
    arrays, _ = prepared.batch(range(len(prepared)))
    return arrays[0], np.asarray(samples.labels)
