"""Synthetic artifacts with placeholder files: planning and rendering read only the manifest."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.artifact.artifact import MANIFEST, describe
from cluster.artifact.entries import Latency, ProgramEntry
from cluster.artifact.layout import Layout, Shard
from cluster.artifact.local import LocalStore
from cluster.artifact.manifest import Manifest, Measurement
from cluster.tensors import TensorSpec

MIB = 2**20
INPUT = TensorSpec(name="x", datatype="FP32", shape=(-1, 256))
MIDDLE = TensorSpec(name="h", datatype="FP32", shape=(-1, 1024))
OUTPUT = TensorSpec(name="logits", datatype="FP32", shape=(-1, 10))
LATENCY = (Latency(batch=1, p50_ms=8, p99_ms=9), Latency(batch=8, p50_ms=64, p99_ms=70))


def _entry(file: str, target: str, inputs: tuple[TensorSpec, ...] | None = None) -> ProgramEntry:
    return ProgramEntry(
        kind="aoti",
        target=target,
        file=file,
        cpu_features=(),
        torch_version="2",
        native_runner=None,
        python_abi=None,
        inputs=inputs,
    )


def layout(target: str, pipeline: int, tensor: int, weight_bytes: int = 40 * MIB) -> Layout:
    """Return a cut into stages of ``weight_bytes`` each, each stage in tensor slices."""
    crossing = [(INPUT,), *[(MIDDLE,)] * (pipeline - 1), (OUTPUT,)]
    return Layout(
        target=target,
        kind="aoti",
        pipeline=pipeline,
        tensor=tensor,
        crossing=tuple(crossing),
        after=tuple(f"op{index}" for index in range(pipeline - 1)),
        shards=tuple(
            Shard(
                stage=stage,
                tp_rank=rank,
                program=_entry(f"shards/{stage}.{rank}.pt2", target, crossing[stage]),
                outputs=crossing[stage + 1],
                weights=f"shards/{stage}.{rank}.safetensors",
                weight_bytes=weight_bytes,
                activation_bytes=MIB,
                latency=LATENCY,
            )
            for stage in range(pipeline)
            for rank in range(tensor)
        ),
        reduces=(0,) * pipeline,
    )


def publish(
    root: Path, name: str, target: str, *layouts: Layout, size_bytes: int = 80 * MIB
) -> str:
    """Publish an artifact in the store at ``root``; return its id."""
    store = LocalStore(root)
    key = f"{abs(hash((name, target, len(layouts)))):064x}"
    with store.building(key) as room:
        entries = [_entry("programs/whole.pt2", target)]
        entries += [shard.program for layout in layouts for shard in layout.shards]
        files = {"weights.safetensors", *(entry.file for entry in entries)}
        files |= {shard.weights for layout in layouts for shard in layout.shards}
        for file in files:
            (room / file).parent.mkdir(parents=True, exist_ok=True)
            (room / file).write_bytes(file.encode())
        measured = Measurement(
            accuracy=1,
            accuracy_low=1,
            accuracy_high=1,
            samples=1,
            latency=LATENCY,
            size_bytes=size_bytes,
        )
        manifest = Manifest(
            name=name,
            recipe={},
            recipe_key=key,
            inputs=(INPUT,),
            outputs=(OUTPUT,),
            image=None,
            text=None,
            labels=(),
            files={file: describe(room / file) for file in sorted(files)},
            programs=tuple(entries[:1]),
            quantized_operators=0,
            measured={f"{target}/aoti": measured},
            fastest={target: "aoti"},
            layouts=layouts,
        )
        (room / MANIFEST).write_bytes(manifest.to_json())
        return str(store.publish(room).id)


def edited(plan: Path, to: Path, **fields: object) -> Path:
    """Write a copy of a plan file with other values in some fields; return its path."""
    to.write_text(json.dumps(json.loads(plan.read_text()) | fields))
    return to
