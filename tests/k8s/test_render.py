"""``headrace k8s render``: what it makes of an artifact and a plan, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_artifacts import edited, layout, publish

from cluster.artifact.local import LocalStore
from deployments.kubernetes import overlay, validate

pytestmark = pytest.mark.usefixtures("kustomize")
DIGEST = "registry.example.com/headrace@sha256:" + "0123456789abcdef" * 4
Plan = Callable[..., Path]
Headrace = Callable[..., Any]


def service(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == "RayService"]
    return dict(found["spec"])


def model(spec: dict[str, Any]) -> dict[str, Any]:
    return dict(yaml.safe_load(spec["serveConfigV2"])["applications"][1])


def test_a_model_without_a_plan(headrace: Headrace, store: Path) -> None:
    ran = headrace("k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST)
    assert ran.status == 0, ran.err
    objects = list(yaml.safe_load_all(ran.out))
    assert validate.problems(objects) == []
    assert "\n  serveConfigV2: |\n    applications:\n" in ran.out  # for people, too
    spec = service(objects)
    assert model(spec)["route_prefix"] == "/v2/models/plain"
    args = model(spec)["args"]
    assert args["artifact"] == LocalStore(store).open("plain").id  # pinned: a name may move on
    assert args["autoscaling"] == {"min_replicas": 1, "max_replicas": 2}
    config = spec["rayClusterConfig"]
    for group in (config["headGroupSpec"], *config["workerGroupSpecs"]):
        assert group["template"]["spec"]["containers"][0]["image"] == DIGEST
    assert not [each for each in objects if each["kind"] == "RayJob"]


def test_a_plan_sizes_the_pods_and_asks_for_its_cut(
    headrace: Headrace, store: Path, plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = headrace(
        "k8s", "render", "--model", "cut", "--name", "two", "--store", store, "--image", DIGEST,
        "--plan", plan("cut", "--devices", "2xcpu-x86", "--pipeline", "2", "--batch", "4"),
        "--out", out,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert f"kubectl apply -k {out}" in ran.out
    spec = yaml.safe_load((out / "rayservice.headrace.yaml").read_text())["spec"]
    args = model(spec)["args"]
    assert args["name"] == "two"
    assert args["parallel"] == {"pipeline": 2, "tensor": 1, "placement": "PACK"}
    assert args["batching"] == {"max_batch_size": 4}
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    assert group["rayStartParams"]["num-cpus"] == "2"
    assert group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "2"
    env = {e["name"]: e["value"] for e in group["template"]["spec"]["containers"][0]["env"]}
    assert env["HEADRACE_DEVICES"] == "2xcpu-x86@2"  # what two pods have
    # What was written is put together again by kustomize, unchanged.
    again = overlay.build(out)
    assert validate.problems(again) == []
    assert service(again) == spec


def test_shards_spread_over_nodes_have_a_pod_each(
    headrace: Headrace, store: Path, plan: Plan
) -> None:
    spread = plan("cut", "--devices", "1xcpu-x86@2", "--pipeline", "2", "--placement", "SPREAD")
    ran = headrace(
        "k8s", "render", "--model", "cut", "--store", store, "--image", DIGEST, "--plan", spread
    )
    assert ran.status == 0, ran.err
    (group,) = service(list(yaml.safe_load_all(ran.out)))["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (2, 2)
    assert group["rayStartParams"]["num-cpus"] == "1"


def test_a_budget_leaves_all_replicas_but_one(headrace: Headrace, store: Path, plan: Plan) -> None:
    arguments = ("k8s", "render", "--store", store, "--image", DIGEST, "--model")
    ran = headrace(*arguments, "plain", "--overlay", "ha/rocksdb")
    assert ran.status == 0, ran.err
    assert budget(ran.out) == 2
    assert "PodDisruptionBudget" not in ran.err
    # Two shards apart, so two pods to a replica: the overlay's three pods are one replica.
    spread = plan("cut", "--devices", "1xcpu-x86@2", "--pipeline", "2", "--placement", "SPREAD")
    ran = headrace(*arguments, "cut", "--overlay", "ha/rocksdb", "--plan", spread)
    assert ran.status == 0, ran.err
    assert budget(ran.out) is None
    assert "headrace: no PodDisruptionBudget: with one replica at least" in ran.err


def budget(text: str) -> int | None:
    found = [o for o in yaml.safe_load_all(text) if o["kind"] == "PodDisruptionBudget"]
    return found[0]["spec"]["minAvailable"] if found else None


def test_gpus_come_from_the_group_of_their_kind(
    headrace: Headrace, store: Path, plan: Plan
) -> None:
    ran = headrace(
        "k8s", "render", "--model", "large", "--store", store, "--image", DIGEST,
        "--overlay", "gpu", "--plan", plan("large", "--devices", "8xcuda-sm90", "--pipeline", "8"),
    )  # fmt: skip
    assert ran.status == 0, ran.err
    spec = service(list(yaml.safe_load_all(ran.out)))
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]  # none of L4s, which would not do
    assert group["groupName"] == "h100"
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert model(spec)["args"]["autoscaling"] == {"min_replicas": 1, "max_replicas": 2}
    whole = headrace(
        "k8s", "render", "--model", "large", "--store", store, "--image", DIGEST,
        "--overlay", "gpu",
    )  # fmt: skip
    (deployment,) = model(service(list(yaml.safe_load_all(whole.out))))["deployments"]
    assert deployment["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 1}
    assert deployment["name"] == "model-large"


def test_a_store_behind_a_uri_takes_the_place_of_the_claim(
    headrace: Headrace, store: Path, tmp_path: Path
) -> None:
    uri = f"file://{store}"
    ran = headrace("k8s", "render", "--model", "plain", "--store", uri, "--image", DIGEST)
    assert ran.status == 0, ran.err
    objects = list(yaml.safe_load_all(ran.out))
    assert not [each for each in objects if each["kind"] == "PersistentVolumeClaim"]
    (settings,) = [o for o in objects if o["metadata"]["name"] == "headrace-store"]
    assert settings["data"]["HEADRACE_STORE"] == uri
    assert "persistentVolumeClaim" not in ran.out
    assert [o for o in objects if o["metadata"]["name"] == "object-store"]


@pytest.mark.parametrize("name", ["ha/redis", "ha/rocksdb"])
def test_ha_takes_images_by_digest_alone(headrace: Headrace, store: Path, name: str) -> None:
    arguments = ("k8s", "render", "--model", "plain", "--store", store, "--overlay", name)
    by_tag = headrace(*arguments, "--image", "registry.example.com/headrace:1.0")
    assert by_tag.status == 2
    assert "'registry.example.com/headrace:1.0' has no digest; give NAME@sha256:" in by_tag.err
    assert by_tag.out == ""
    assert headrace(*arguments, "--image", DIGEST).status == 0


GROUP = "/spec/rayClusterConfig/workerGroupSpecs/0"


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (
            {"op": "add", "path": "/spec/rayClusterConfig/rayVerison", "value": "2.60.0"},
            "RayService/headrace: spec.rayClusterConfig.rayVerison: no such field; did you mean "
            "rayVersion?",
        ),
        (
            {"op": "remove", "path": f"{GROUP}/maxReplicas"},
            "group cpu-x86: has no maxReplicas; give the most pods it may have",
        ),
        (
            {"op": "replace", "path": f"{GROUP}/template/spec/containers", "value": []},
            "spec.rayClusterConfig.workerGroupSpecs[0].template.spec.containers",
        ),
        (
            {"op": "replace", "path": "/kind", "value": "RayServic"},
            "RayServic/headrace: no such kind in ray.io/v1; did you mean RayService?",
        ),
    ],
)
def test_what_is_wrong_with_an_overlay_is_named(
    headrace: Headrace, store: Path, tmp_path: Path, patch: dict[str, Any], said: str
) -> None:
    ran = headrace(
        "k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST,
        "--overlay", patched(tmp_path, patch), "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.status == 2
    assert said in ran.err
    assert not (tmp_path / "out").exists()


def test_a_group_without_a_least_number_of_pods_has_one_replica(
    headrace: Headrace, store: Path, tmp_path: Path
) -> None:
    mine = patched(tmp_path, {"op": "remove", "path": f"{GROUP}/minReplicas"})
    ran = headrace(
        "k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST, "--overlay", mine
    )
    assert ran.status == 0, ran.err
    (group,) = service(list(yaml.safe_load_all(ran.out)))["rayClusterConfig"]["workerGroupSpecs"]
    assert group["minReplicas"] == 1


@pytest.mark.parametrize("image", ["", "two words", "@sha256:0123", "name@sha256:0123"])
def test_what_is_no_image(headrace: Headrace, store: Path, image: str) -> None:
    ran = headrace("k8s", "render", "--model", "plain", "--store", store, "--image", image)
    assert ran.status == 2
    assert f"--image {image!r}: no image is named so; give NAME@sha256:" in ran.err


def patched(folder: Path, patch: dict[str, Any]) -> Path:
    """An overlay that changes the base's RayService in one place."""
    # Beside a copy of the base: kustomize takes no absolute paths.
    shutil.copytree(overlay.k8s_dir() / "base", folder / "base")
    mine = folder / "mine"
    mine.mkdir()
    whole = {
        "resources": ["../base"],
        "patches": [
            {
                "target": {"kind": "RayService"},
                "patch": yaml.safe_dump([patch]),
                "options": {"allowKindChange": True},
            }
        ],
    }
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    return mine


def test_more_gpus_than_the_group_has(
    headrace: Headrace, store: Path, plan: Plan, tmp_path: Path
) -> None:
    arguments = ("k8s", "render", "--model", "large", "--store", store, "--image", DIGEST)
    many = plan("large", "--devices", "8xcuda-sm90@4", "--pipeline", "8", "--tensor", "4")
    ran = headrace(*arguments, "--overlay", "gpu", "--plan", many)
    assert ran.status == 2
    assert (
        "group h100: the plan wants 32 GPUs for a replica, the group has at most 2 pods of 8, 16 "
        "together; raise its maxReplicas" in ran.err
    )
    packed = edited(many, tmp_path / "packed.json", placement="STRICT_PACK")
    ran = headrace(*arguments, "--overlay", "gpu", "--plan", packed)
    assert ran.status == 2
    assert "wants 32 GPUs for a replica on one node (STRICT_PACK), a pod has 8" in ran.err
    ran = headrace(*arguments)
    assert ran.status == 2
    assert "large has programs for cuda-sm90, the overlay's groups are cpu-x86 (cpu-x86)" in ran.err


def test_a_plan_that_does_not_belong_to_the_artifact(
    headrace: Headrace, store: Path, plan: Plan, tmp_path: Path
) -> None:
    made = plan("cut", "--devices", "2xcpu-x86", "--pipeline", "2")
    arguments = ("k8s", "render", "--image", DIGEST, "--plan")
    other = headrace(*arguments, made, "--model", "plain", "--store", store)
    assert other.status == 2
    assert "is of cut, not of plain; `headrace plan plain --json >" in other.err
    again = tmp_path / "other-store"
    publish(again, "cut", "cpu-x86", layout("cpu-x86", 3, 1))  # the name, built anew
    rebuilt = headrace(*arguments, made, "--model", "cut", "--store", again)
    assert rebuilt.status == 2
    assert "is of another build of cut: it has the cut cpu-x86/aoti/pp2.tp1" in rebuilt.err
    unbuilt = edited(made, tmp_path / "unbuilt.json", built=False)
    ran = headrace(*arguments, unbuilt, "--model", "cut", "--store", store)
    assert ran.status == 2
    assert "its cut is not built; add `parallel: [{pipeline: 2, tensor: 1}]`" in ran.err
    for content in ("{}", "[]", "nonsense", '{"shards": 1}'):
        (tmp_path / "wrong.json").write_text(content)
        ran = headrace(*arguments, tmp_path / "wrong.json", "--model", "cut", "--store", store)
        assert ran.status == 2
        assert "not what `headrace plan --json` prints" in ran.err
    ran = headrace(*arguments, tmp_path / "none.json", "--model", "cut", "--store", store)
    assert (ran.status, "cannot be read: No such file" in ran.err) == (2, True)


def test_names_that_are_not_there(headrace: Headrace, store: Path, tmp_path: Path) -> None:
    arguments = ("k8s", "render", "--store", store, "--image", DIGEST, "--model")
    ran = headrace(*arguments, "nothing")
    assert ran.status == 1
    assert "'nothing'" in ran.err
    ran = headrace(*arguments, "plain", "--overlay", "hugh")
    assert ran.status == 2
    assert "--overlay hugh: no such overlay" in ran.err
    assert "cpu-dev, gpu, ha/redis, ha/rocksdb, incremental-upgrade, kueue" in ran.err
    ran = headrace(*arguments, "plain", "--name", "no/name")
    assert ran.status == 2
    assert "no/name" in ran.err
    (tmp_path / "file").write_text("")
    ran = headrace(*arguments, "plain", "--out", tmp_path / "file" / "out")
    assert ran.status == 2
    assert f"--out {tmp_path / 'file' / 'out'}: cannot be written: Not a directory" in ran.err


def test_without_kustomize(
    headrace: Headrace, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST)
    kubectl = shutil.which("kubectl")
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = headrace(*arguments)
    assert ran.status == 2
    assert "neither kubectl nor kustomize is on the PATH" in ran.err
    if kubectl is None:
        pytest.skip("kubectl is not installed: the other name is not tried")
    # The other tool does it as well: kustomize build DIR is kubectl kustomize DIR.
    tool = tmp_path / "kustomize"
    tool.write_text(f'#!/bin/sh\ntest "$1" = build && exec {kubectl} kustomize "$2"\n')
    tool.chmod(0o755)
    assert headrace(*arguments).status == 0


def test_what_kustomize_refuses_is_said(headrace: Headrace, store: Path, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [../nowhere]\n")
    ran = headrace(
        "k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST,
        "--overlay", tmp_path,
    )  # fmt: skip
    assert ran.status == 2
    assert "refuses it: " in ran.err
    assert "nowhere" in ran.err
    assert subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True).returncode
