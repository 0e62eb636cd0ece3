"""Plans: placement, estimates, and refusals with numbers."""

from __future__ import annotations

import json

import pytest

from cluster.artifact.entries import Latency, ProgramEntry
from cluster.artifact.layout import Layout, Profile, Segment, Shard, TensorProfile
from cluster.artifact.manifest import Manifest, Measurement
from cluster.errors import ArtifactError, PlanError
from cluster.parallel.devices import Device, parse_devices, size_text
from cluster.parallel.plan import FRAMES_AT_A_SHARD, plan
from cluster.tensors import TensorSpec

MIB = 2**20
INPUT = TensorSpec(name="x", datatype="FP32", shape=(-1, 256))
MIDDLE = TensorSpec(name="h", datatype="FP32", shape=(-1, 1024))
OUTPUT = TensorSpec(name="logits", datatype="FP32", shape=(-1, 10))


def entry(file: str, inputs: tuple[TensorSpec, ...] | None = None) -> ProgramEntry:
    return ProgramEntry(
        kind="aoti",
        target="cpu-x86",
        file=file,
        cpu_features=(),
        torch_version="2",
        native_runner=None,
        python_abi=None,
        inputs=inputs,
    )


def shard(stage: int, takes: TensorSpec, makes: TensorSpec, ms: float) -> Shard:
    return Shard(
        stage=stage,
        tp_rank=0,
        program=entry(f"shards/{stage}.pt2", (takes,)),
        outputs=(makes,),
        weights=f"shards/{stage}.safetensors",
        weight_bytes=40 * MIB,
        activation_bytes=MIB,
        latency=(Latency(batch=1, p50_ms=ms, p99_ms=ms), Latency(batch=8, p50_ms=8 * ms, p99_ms=9)),
    )


def two_stages() -> Layout:
    return Layout(
        target="cpu-x86",
        kind="aoti",
        pipeline=2,
        tensor=1,
        crossing=((INPUT,), (MIDDLE,), (OUTPUT,)),
        after=("relu",),
        shards=(shard(0, INPUT, MIDDLE, 5.0), shard(1, MIDDLE, OUTPUT, 4.0)),
        reduces=(0, 0),
    )


def manifest(*layouts: Layout, sliced: bool = False) -> Manifest:
    segments = tuple(
        Segment(
            last=f"op{index}",
            cost_ms=10.0,
            weight_bytes=20 * MIB,
            activation_bytes=MIB,
            carried_bytes=4096,
        )
        for index in range(4)
    )
    tensor = TensorProfile(
        degrees=(2, 4), sliced_cost=0.9, sliced_bytes=72 * MIB, reduces=8, reduced_bytes=4096
    )
    measurement = Measurement(
        accuracy=1,
        accuracy_low=1,
        accuracy_high=1,
        samples=1,
        latency=(Latency(batch=1, p50_ms=8, p99_ms=9), Latency(batch=8, p50_ms=64, p99_ms=70)),
        size_bytes=80 * MIB,
    )
    return Manifest(
        name="m",
        recipe={},
        recipe_key="0" * 64,
        inputs=(INPUT,),
        outputs=(OUTPUT,),
        image=None,
        text=None,
        labels=(),
        files={},
        programs=(entry("programs/cpu-x86.pt2"),),
        quantized_operators=0,
        measured={"cpu-x86/aoti": measurement},
        fastest={"cpu-x86": "aoti"},
        profile=Profile(batch=4, segments=segments, tensor=tensor if sliced else None),
        layouts=layouts,
    )


def test_plan_prefers_fewest_devices_that_fit() -> None:
    roomy = plan(manifest(two_stages()), parse_devices("4xcpu-x86"))
    assert (roomy.pipeline, roomy.layout, roomy.built, roomy.devices) == (1, None, True, 1)
    assert roomy.latency_ms == 64
    tight = plan(manifest(two_stages()), parse_devices("4xcpu-x86:60MiB"))
    assert (tight.pipeline, tight.layout, tight.devices) == (2, "cpu-x86/aoti/pp2.tp1", 2)
    assert tight.bundles == ({"memory": 1.0}, {"CPU": 1.0}, {"CPU": 1.0})


def with_gpu_programs(manifest: Manifest) -> Manifest:
    """Return the manifest with a GPU program, four times as fast, and no layout of it."""
    gpu = entry("programs/cuda.pt2").model_copy(update={"target": "cuda-sm90"})
    fast = manifest.measured["cpu-x86/aoti"].model_copy(
        update={
            "latency": (
                Latency(batch=1, p50_ms=2, p99_ms=2),
                Latency(batch=8, p50_ms=16, p99_ms=17),
            )
        }
    )
    return manifest.model_copy(
        update={
            "programs": (*manifest.programs, gpu),
            "measured": {**manifest.measured, "cuda-sm90/aoti": fast},
            "fastest": {**manifest.fastest, "cuda-sm90": "aoti"},
        }
    )


def test_plan_prefers_built_cut_over_faster_unbuilt_one() -> None:
    devices = parse_devices("2xcuda-sm90,4xcpu-x86")
    shard_plan = plan(with_gpu_programs(manifest(two_stages())), devices, pipeline=2, tensor=1)
    assert (shard_plan.target, shard_plan.built) == ("cpu-x86", True)


def test_plan_skips_target_without_estimate() -> None:
    without = with_gpu_programs(manifest(two_stages())).model_copy(update={"profile": None})
    devices = parse_devices("2xcuda-sm90,4xcpu-x86")
    assert plan(without, devices, pipeline=2, tensor=1).target == "cpu-x86"


def test_plan_respects_device_limit_and_placement() -> None:
    devices = parse_devices("4xcpu-x86@2")
    spread = plan(manifest(two_stages()), devices, pipeline=2, placement="SPREAD", max_devices=2)
    assert [shard.node for shard in spread.shards] == [0, 1]
    with pytest.raises(PlanError, match=r"pp2.tp1 needs 2 devices, at most 1 are allowed"):
        plan(manifest(two_stages()), devices, pipeline=2, max_devices=1)


def test_plan_uses_measurements_of_built_layout() -> None:
    shard_plan = plan(manifest(two_stages()), parse_devices("2xcpu-x86"), pipeline=2, batch=8)
    first = shard_plan.shards[0]
    assert first.weight_bytes == 40 * MIB
    assert first.activation_bytes == 8 * MIB
    assert first.buffer_bytes == FRAMES_AT_A_SHARD * 8 * MIDDLE.item_bytes
    assert shard_plan.memory_bytes == 48 * MIB + first.buffer_bytes
    assert shard_plan.stage_ms == (40.0, 32.0)
    assert shard_plan.latency_ms == pytest.approx(72 + sum(shard_plan.hop_ms))
    assert 8 / 41 * 1e3 < shard_plan.items_per_s < 8 / 40 * 1e3
    between = plan(manifest(two_stages()), parse_devices("2xcpu-x86"), pipeline=2, batch=4)
    assert between.stage_ms == pytest.approx((20.0, 16.0))


def test_plan_estimates_unbuilt_cut_from_profile() -> None:
    shard_plan = plan(manifest(), parse_devices("4xcpu-x86"), pipeline=4, batch=8)
    assert not shard_plan.built
    assert shard_plan.stage_ms == pytest.approx((16.0,) * 4)
    assert [shard.weight_bytes for shard in shard_plan.shards] == [20 * MIB] * 4
    sliced = plan(manifest(sliced=True), parse_devices("4xcpu-x86"), tensor=2, pipeline=1)
    assert 64 * 0.55 < sliced.stage_ms[0] < 64 * 0.55 + 1
    assert sliced.shards[0].weight_bytes == pytest.approx(44 * MIB, rel=1e-6)


@pytest.mark.parametrize(
    ("devices", "options", "message"),
    [
        ("1xcpu-x86", {"pipeline": 2}, "pp2.tp1 needs 2 devices of cpu-x86, there are 1"),
        ("2xcpu-x86:41MiB", {"pipeline": 2}, r"stage 0 needs 48\.\d MiB \(40\.0 MiB weights, 8\.0"),
        ("3xcpu-x86:30MiB", {}, "No number of stages up to 3 fits; use more or larger"),
        ("4xcpu-x86:30MiB", {}, r"pp4\.tp1 would fit: 28\.\d MiB on its largest device; it is not"),
        (
            "2xcpu-x86",
            {"pipeline": 9},
            r"needs 8 cuts.* has 3 places to cut; use at most 4",
        ),
        ("4xcpu-x86", {"tensor": 3}, "tensor=3 does not divide .* use one of 2, 4"),
        ("2xcuda-sm90", {}, "has programs for cpu-x86, the devices are cuda-sm90"),
        ("2xcpu-x86", {"pipeline": 2, "placement": "SPREAD"}, "several nodes, all are on one"),
        (
            "1xcpu-x86@2",
            {"pipeline": 2, "placement": "STRICT_PACK"},
            "needs 2 devices on one node, the largest has 1; use PACK",
        ),
    ],
)
def test_plan_rejects_impossible_request_with_numbers(
    devices: str, options: dict, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan(manifest(two_stages(), sliced=True), parse_devices(devices), **options)


def test_plan_rejects_slices_without_family() -> None:
    with pytest.raises(PlanError, match="belongs to no family with a built-in plan"):
        plan(manifest(), parse_devices("2xcpu-x86"), tensor=2, pipeline=1)


def test_plan_keeps_stages_of_replica_on_one_node() -> None:
    # The smallest node with enough devices.
    devices = parse_devices("4xcpu-x86,2xcpu-x86,1xcpu-x86")
    packed = plan(manifest(two_stages()), devices, pipeline=2)
    assert [shard.node for shard in packed.shards] == [1, 1]
    spread = plan(manifest(two_stages()), devices, pipeline=2, placement="SPREAD")
    assert [shard.node for shard in spread.shards] == [0, 1]


def test_devices_parse_as_written() -> None:
    assert parse_devices("2xcpu-x86:4GiB") == (Device("cpu-x86", 4 * 2**30, 0),) * 2
    mixed = parse_devices("1xcuda-sm90:80GB@2, 1xcpu-x86")
    assert [(device.target, device.node) for device in mixed] == [
        ("cuda-sm90", 0),
        ("cuda-sm90", 1),
        ("cpu-x86", 2),
    ]
    assert mixed[0].memory_bytes == 80 * 10**9
    for text in ("", "cpu-x86", "2xgpu", "0xcpu-x86", "2xcpu-x86:4Q", "2xcpu-x86@0"):
        with pytest.raises(PlanError, match=r"expected COUNTxTARGET|expected at least 1 device"):
            parse_devices(text)
    assert [size_text(size) for size in (12, 1536, 5 * MIB)] == ["12 B", "1.5 KiB", "5.0 MiB"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pipeline": 3}, "has the shards"),
        ({"crossing": ((INPUT,), (OUTPUT,))}, "3 sets of crossing tensors"),
        ({"crossing": ((INPUT,), (INPUT,), (OUTPUT,))}, "takes h, which does not arrive"),
        ({"crossing": ((INPUT,), (MIDDLE,), (INPUT,))}, "passes on x, which it does not have"),
    ],
)
def test_manifest_rejects_inconsistent_stages(change: dict, message: str) -> None:
    content = json.loads(manifest(two_stages()).to_json())
    broken = two_stages().model_copy(update=change).model_dump(mode="json")
    content["layouts"] = [broken]
    with pytest.raises(ArtifactError, match=message):
        Manifest.from_json(json.dumps(content).encode(), "manifest.json")
