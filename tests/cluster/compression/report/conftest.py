"""Record of a build as a job writes it: ResNet-56 on CIFAR-10, searched, pruned, quantized."""

from __future__ import annotations

import math
import random

import pytest

from cluster.artifact.entries import Latency
from cluster.artifact.manifest import Drop, Measurement, Score
from cluster.compression.record import (
    BuildRecord,
    CheckRecord,
    LayerSize,
    ModelSize,
    SearchRecord,
    StepRecord,
    TrialRecord,
)

BATCHES = (1, 8, 32)
SCHEMES = (
    ("none", 1.0, 0.0, 1.0),
    ("bf16", 0.55, 0.0005, 0.51),
    ("static_int8", 0.33, 0.004, 0.27),
)


def score(value: float, samples: int = 1000) -> Score:
    half = 1.96 * math.sqrt(value * (1 - value) / samples)
    return Score(value=value, low=value - half, high=min(1.0, value + half), samples=samples)


def drop(mean: float, upper: float) -> Drop:
    return Drop(mean=mean, upper=upper, confidence=0.95)


def measured(
    value: float, ms: tuple[float, ...], size: int, lost: Drop | None = None
) -> Measurement:
    accuracy = score(value, 2000)
    return Measurement(
        accuracy=value,
        accuracy_low=accuracy.low,
        accuracy_high=accuracy.high,
        samples=2000,
        drop=lost,
        others={"cosine": score(0.999 if lost is None else 0.981, 2000)},
        latency=tuple(
            Latency(batch=batch, p50_ms=p50, p99_ms=p50 * 1.22)
            for batch, p50 in zip(BATCHES, ms, strict=True)
        ),
        size_bytes=size,
    )


def layer_names() -> list[str]:
    blocks = [
        f"layer{stage}.{block}.conv{convolution}"
        for stage in (1, 2, 3)
        for block in range(9)
        for convolution in (1, 2)
    ]
    return ["conv1", *blocks, "fc"]


def trials() -> tuple[TrialRecord, ...]:
    drawn = random.Random(3)
    records = []
    number = 0
    for ratio in (0.0, 0.2, 0.3, 0.4, 0.5):
        for scheme, speed, lost, share in SCHEMES:
            lost_here = lost + 0.05 * ratio**2 + drawn.uniform(-0.001, 0.001)
            upper = max(0.0, lost_here) + 0.0045
            steps = [f"prune structured {ratio:g}"] if ratio else []
            steps += [f"quantize {scheme}"] if scheme != "none" else []
            records.append(
                TrialRecord(
                    number=number,
                    title=", ".join(steps) or "as it is",
                    steps=tuple({"kind": step_title.split()[0]} for step_title in steps),
                    stage="recovered" if ratio else "proxy",
                    score=score(0.853 - lost_here),
                    drop_upper=upper,
                    latency_ms=9.4 * speed * (1 - 0.75 * ratio),
                    size_bytes=int(3_450_000 * share * (1 - ratio) ** 1.6),
                    seconds=12.0 + 61 * (ratio > 0),
                    feasible=upper <= 0.0175,
                    on_front=scheme == "static_int8" or (scheme == "none" and ratio == 0),
                )
            )
            number += 1
    records.append(
        TrialRecord(
            number=number,
            title="prune structured 0.7",
            steps=(),
            stage="stopped",
            reason="the proxy lost 21.4 points, far over the budget",
            seconds=4.2,
        )
    )
    records.append(
        TrialRecord(
            number=number + 1,
            title="quantize float8",
            steps=(),
            stage="failed",
            reason="float8 needs CUDA of compute capability 8.9",
            seconds=0.1,
        )
    )
    return tuple(records)


def sizes(parameters: int, macs: int, weight_bytes: int) -> ModelSize:
    return ModelSize(
        parameters=parameters, nonzero=parameters, weight_bytes=weight_bytes, macs=macs
    )


def steps() -> tuple[StepRecord, ...]:
    drawn = random.Random(5)
    names = layer_names()
    whole, pruned = sizes(855_770, 126_550_000, 3_450_000), sizes(402_300, 60_100_000, 1_630_000)
    return (
        StepRecord(
            kind="train",
            title="train",
            settings={"kind": "train", "epochs": 8, "optimizer": "sgd", "learning_rate": 0.02},
            seconds=734.2,
            before=score(0.8320, 512),
            after=score(0.8530, 512),
            size_before=whole,
            size_after=whole,
            details={"losses": [0.61, 0.52, 0.47, 0.43, 0.405, 0.382, 0.371, 0.367]},
        ),
        StepRecord(
            kind="prune",
            title="prune structured 0.4",
            settings={
                "kind": "prune",
                "method": "structured",
                "ratio": 0.4,
                "importance": "taylor",
                "spare": ["layer3.8.conv2"],
                "recovery": {"epochs": 4, "learning_rate": 0.01},
            },
            seconds=305.0,
            before=score(0.8530, 512),
            after=score(0.8490, 512),
            size_before=whole,
            size_after=pruned,
            details={
                "sensitivity": {
                    name: max(-0.004, drawn.gauss(0.008, 0.011) + 0.03 * (position < 3))
                    for position, name in enumerate(names[:-1])
                },
                "pruned": {name: [64, 40] for name in names[37:-1]},
                "losses": [0.55, 0.49, 0.46, 0.45],
            },
        ),
        StepRecord(
            kind="quantize",
            title="quantize static_int8",
            settings={"kind": "quantize", "scheme": "static_int8", "calibration_samples": 128},
            seconds=21.7,
            before=score(0.8490, 512),
            after=score(0.8470, 512),
            size_before=pruned,
            size_after=sizes(402_300, 60_100_000, 428_000),
            details={
                "ranges": {
                    f"{name} input": [
                        -abs(drawn.gauss(1, 1.2)) * (position % 2),
                        abs(drawn.gauss(4, 2)) + 0.2,
                    ]
                    for position, name in enumerate(names[:24])
                },
                "kept": ["conv1", "layer1.0.conv1"],
            },
        ),
    )


@pytest.fixture
def record() -> BuildRecord:
    drawn = random.Random(1)
    tried = trials()
    search = SearchRecord(
        objective="latency",
        batch=1,
        budget=0.0175,
        baseline=tried[0].model_copy(update={"number": -1, "title": "baseline"}),
        trials=tried,
        chosen=11,
        contributions=(
            ("prune structured 0.4", -0.004, -2.82),
            ("quantize static_int8", -0.002, -4.41),
        ),
        resumed=4,
        seconds=1047.0,
    )
    return BuildRecord(
        name="resnet56-cifar10",
        recipe={
            "name": "resnet56-cifar10",
            "model": {"source": "python:cifar_resnet:resnet56", "weights": "resnet56.safetensors"},
            "data": {"source": "imagefolder:train", "test_source": "imagefolder:test"},
            "steps": [{"kind": "train", "epochs": 8, "learning_rate": 0.02}],
            "search": {"objective": "latency", "batch": 1, "time_budget_s": 1200},
            "evaluation": {"metrics": ["accuracy", "cosine"], "batches": list(BATCHES)},
            "gate": {"max_accuracy_drop": 0.0175, "confidence": 0.95, "min_speedup": 2.0},
            "seed": 0,
        },
        accepted=True,
        checks=(
            CheckRecord(
                name="loads",
                limit="cpu-x86",
                measured="openvino",
                passed=True,
                reason="cpu-x86/openvino loads in a fresh process and is the fastest of 3 programs "
                "that work.",
            ),
            CheckRecord(
                name="max_accuracy_drop",
                limit=0.0175,
                measured=0.0104,
                passed=True,
                reason="The score of cpu-x86/openvino drops by 0.55 points on 2000 samples, and "
                "with 95 % confidence drops by 1.04 points at most, within the 1.75 of "
                "gate.max_accuracy_drop.",
            ),
            CheckRecord(
                name="min_speedup",
                limit=2.0,
                measured=6.9,
                passed=True,
                reason="cpu-x86/openvino takes 1.36 ms at batch 1 and the baseline 9.40 ms, a "
                "speed-up of 6.91×, at least the 2× of gate.min_speedup.",
            ),
            CheckRecord(
                name="max_size_share",
                limit=1.0,
                measured=0.16,
                passed=True,
                reason="cpu-x86/openvino is 552 kB to load, 0.160 of the 3.45 MB of the float32 "
                "weights, within the 1 of gate.max_size_share.",
            ),
            CheckRecord(
                name="quantized_operators",
                limit=1,
                measured=58,
                passed=True,
                reason="58 operators compute, or are stored, in fewer bits.",
            ),
        ),
        metric="accuracy",
        target="cpu-x86",
        fastest="openvino",
        baseline=measured(0.8525, (9.40, 41.2, 160.1), 3_450_000),
        programs={
            "cpu-x86/aoti": measured(0.8475, (2.10, 7.9, 30.4), 1_310_000, drop(0.005, 0.0098)),
            "cpu-x86/openvino": measured(0.8470, (1.36, 6.1, 25.0), 552_000, drop(0.0055, 0.0104)),
            "cpu-x86/eager": measured(0.8485, (6.31, 22.5, 84.0), 1_630_000, drop(0.004, 0.009)),
        },
        failed_programs={
            "cpu-x86/exported": "the graph holds an operator that torch.export cannot save"
        },
        quantized_operators=58,
        steps=steps(),
        layers=tuple(
            LayerSize(
                name=name,
                baseline_bytes=(before := 2300 * 4 ** min(2, position // 19) * 4),
                bytes=int(before * drawn.uniform(0.08, 0.26)),
            )
            for position, name in enumerate(layer_names())
        ),
        search=search,
        seconds={"train": 734.2, "search": 1047.0, "compile": 96.3, "evaluate": 71.9},
        versions={"headrace": "0.2.0", "torch": "2.14.1", "openvino": "2026.4.0"},
        seed=0,
        data={
            "source": "imagefolder:cifar10/train",
            "test_source": "imagefolder:cifar10/test",
            "fingerprint": "9f2c1f4e" * 8,
            "training_samples": 50_000,
            "validation_samples": 500,
            "held_out_samples": 2000,
            "classes": 10,
        },
        machine={
            "cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            "cpus": 2,
            "targets": ["cpu-x86"],
            "compute_threads": 1,
        },
        random_weights=False,
        measured_at="2026-11-22T14:03:11+00:00",
    )
