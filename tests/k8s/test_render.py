"""``headrace k8s render``: objects for an artifact and a plan, and refusals."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import DIGEST, GROUP, applications, group_of, model, patched, service

from cluster.artifact.local import LocalStore
from deployments.kubernetes import manifest_yaml, overlay, validate

pytestmark = pytest.mark.usefixtures("kustomize")
Plan = Callable[..., Path]
Headrace = Callable[..., Any]


REAL_TIME = {"target_ongoing_requests": 8, "upscale_delay_s": 2, "metrics_interval_s": 1}


def test_render_without_plan_pins_the_artifact(headrace: Headrace, store: Path) -> None:
    result = headrace("k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST)
    assert result.status == 0, result.err
    objects = list(yaml.safe_load_all(result.out))
    assert validate.problems(objects) == []
    assert "\n  serveConfigV2: |\n    applications:\n" in result.out  # readable
    spec = service(result.out)
    assert model(spec)["route_prefix"] == "/v2/models/plain"
    args = model(spec)["args"]
    assert args["artifact"] == LocalStore(store).open("plain").id  # by id: a name may change
    assert args["autoscaling"] == {"min_replicas": 1, "max_replicas": 2, **REAL_TIME}
    assert "require_signature" not in args
    assert "deployments" not in applications(spec)[0]  # one pod, one catalog
    config = spec["rayClusterConfig"]
    for group in (config["headGroupSpec"], *config["workerGroupSpecs"]):
        assert group["template"]["spec"]["containers"][0]["image"] == DIGEST
    assert not [obj for obj in objects if obj["kind"] == "RayJob"]


def test_words_that_kubectl_reads_as_values_are_quoted(
    headrace: Headrace, store: Path, tmp_path: Path
) -> None:
    container = "/spec/rayClusterConfig/headGroupSpec/template/spec/containers/0"
    variable = {"name": "HEADRACE_TEST", "value": "1e3"}
    overlay = patched(tmp_path, {"op": "add", "path": f"{container}/env/-", "value": variable})
    result = headrace(
        "k8s",
        "render",
        *("--model", "plain", "--name", "y", "--store", store, "--image", DIGEST),
        *("--overlay", overlay),
    )
    assert result.status == 0, result.err
    objects = manifest_yaml.load_all(result.out, "rendered")
    (spec,) = [obj["spec"] for obj in objects if obj["kind"] == "RayService"]
    config = manifest_yaml.load(spec["serveConfigV2"], "serveConfigV2")
    assert config["applications"][1]["args"]["name"] == "y"
    pod = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert pod["containers"][0]["env"][-1] == variable


def test_plan_sets_pod_size_and_cut(
    headrace: Headrace, store: Path, plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = headrace(
        "k8s",
        "render",
        "--model",
        "cut",
        "--name",
        "two",
        "--store",
        store,
        "--image",
        DIGEST,
        "--require-signature",
        "--out",
        out,
        "--plan",
        plan("cut", "--devices", "2xcpu-x86", "--pipeline", "2", "--batch", "4"),
    )
    assert result.status == 0, result.err
    assert f"`kubectl --namespace NAMESPACE apply -k {out}`" in result.out
    spec = yaml.safe_load((out / "rayservice.headrace.yaml").read_text())["spec"]
    args = model(spec)["args"]
    assert args["name"] == "two"
    assert args["parallel"] == {"pipeline": 2, "tensor": 1, "placement": "PACK"}
    assert args["batching"] == {"max_batch_size": 4}
    assert args["autoscaling"]["target_ongoing_requests"] == 8  # two batches of a pipeline
    assert args["require_signature"] is True
    group = group_of(spec)
    assert group["rayStartParams"]["num-cpus"] == "2"
    assert group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "2"
    env = {e["name"]: e["value"] for e in group["template"]["spec"]["containers"][0]["env"]}
    assert env["HEADRACE_DEVICES"] == "2xcpu-x86@2"  # the devices of two pods
    # kustomize builds the written files into the same objects.
    rebuilt = overlay.build(out)
    assert validate.problems(rebuilt) == []
    assert service(yaml.safe_dump_all(rebuilt)) == spec


def test_require_signature_mounts_the_trusted_keys(headrace: Headrace, store: Path) -> None:
    result = headrace(
        "k8s",
        "render",
        "--model",
        "plain",
        "--store",
        store,
        "--image",
        DIGEST,
        "--require-signature",
    )
    assert result.status == 0, result.err
    spec = service(result.out)
    assert model(spec)["args"]["require_signature"] is True
    pod = group_of(spec)["template"]["spec"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "trusted-keys"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "trusted-keys"]
    env = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert env["HEADRACE_TRUSTED_KEYS"] == mount["mountPath"]
    assert volume["secret"]["secretName"] == "headrace-trusted-keys"


def test_autoscaling_is_as_the_manual_recommends(headrace: Headrace, store: Path) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (written,) = re.findall(r"`args\.autoscaling: (\{.+?\})`", manual)
    recommended = yaml.safe_load(written) | {"min_replicas": 1, "max_replicas": 2}
    result = headrace("k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST)
    assert model(service(result.out))["args"]["autoscaling"] == recommended


@pytest.mark.parametrize("name", ["ha/redis", "ha/rocksdb"])
def test_ha_overlay_refuses_image_without_digest(
    headrace: Headrace, store: Path, name: str
) -> None:
    arguments = ("k8s", "render", "--model", "plain", "--store", store, "--overlay", name)
    by_tag = headrace(*arguments, "--image", "registry.example.com/headrace:1.0")
    assert by_tag.status == 2
    assert "'registry.example.com/headrace:1.0' has no digest; give NAME@sha256:" in by_tag.err
    assert by_tag.out == ""
    assert headrace(*arguments, "--image", DIGEST).status == 0


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (
            {"op": "add", "path": "/spec/rayClusterConfig/rayVerison", "value": "2.60.0"},
            "RayService/headrace: spec.rayClusterConfig.rayVerison: unknown field; did you mean "
            "rayVersion?",
        ),
        (
            {"op": "remove", "path": f"{GROUP}/maxReplicas"},
            "group cpu-x86: maxReplicas is missing; give the maximum number of pods",
        ),
        (
            {"op": "replace", "path": f"{GROUP}/template/spec/containers", "value": []},
            "spec.rayClusterConfig.workerGroupSpecs[0].template.spec.containers",
        ),
        (
            {"op": "replace", "path": "/kind", "value": "RayServic"},
            "RayServic/headrace: kind: unknown kind in ray.io/v1; did you mean RayService?",
        ),
        (
            {"op": "replace", "path": "/apiVersion", "value": "ray.io/v1alpha1"},
            "RayService/headrace: apiVersion: must be ray.io/v1 (given: ray.io/v1alpha1)",
        ),
        (
            {"op": "add", "path": f"{GROUP}/numOfHosts", "value": 2},
            "group cpu-x86: numOfHosts must be 1 (given: 2); remove it",
        ),
    ],
)
def test_message_names_the_wrong_field_of_an_overlay(
    headrace: Headrace, store: Path, tmp_path: Path, patch: dict[str, Any], message: str
) -> None:
    result = headrace(
        "k8s",
        "render",
        "--model",
        "plain",
        "--store",
        store,
        "--image",
        DIGEST,
        "--overlay",
        patched(tmp_path, patch),
        "--out",
        tmp_path / "out",
    )
    assert result.status == 2
    assert message in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "image",
    [
        "",
        "two words",
        "@sha256:0123",
        "name@sha256:0123",
        "a:::b",
        "x//y:",
        "UPPER/CASE:tag",
        "http://x/y",
        f"name:tag:tag@sha256:{'0' * 64}",
        "a:-x",
        "a..b",
        "-x",
        "é",
        "name\n",
        "a" * 500,
    ],
)
def test_invalid_image_reference_is_refused(headrace: Headrace, store: Path, image: str) -> None:
    result = headrace("k8s", "render", "--model", "plain", "--store", store, f"--image={image}")
    assert result.status == 2
    assert f"--image {image!r:.160}: not a valid image reference; give NAME@sha256:" in result.err


@pytest.mark.parametrize(
    "image",
    [
        "headrace",
        "headrace:1.0_rc-1",
        "localhost:5000/team/headrace-serving",
        "[::1]:5000/x:y",
        f"Registry.Example.com/a.b/c__d/e---f:1@sha256:{'0' * 64}",
    ],
)
def test_valid_image_reference_is_accepted(headrace: Headrace, store: Path, image: str) -> None:
    result = headrace("k8s", "render", "--model", "plain", "--store", store, "--image", image)
    assert result.status == 0, result.err


def test_unknown_names_and_paths_are_refused(
    headrace: Headrace, store: Path, tmp_path: Path
) -> None:
    arguments = ("k8s", "render", "--store", store, "--image", DIGEST, "--model")
    result = headrace(*arguments, "nothing")
    assert result.status == 1
    assert "'nothing'" in result.err
    result = headrace(*arguments, "plain", "--overlay", "hugh")
    assert result.status == 2
    assert (
        "--overlay hugh: neither an overlay nor a directory with a kustomization.yaml" in result.err
    )
    assert "cpu-dev, gpu, ha/redis, ha/rocksdb, incremental-upgrade, kueue" in result.err
    for name, message in (("no/name", "(given: 'no/name')"), ("", "names must be nonempty")):
        result = headrace(*arguments, "plain", "--name", name)
        assert result.status == 2
        assert message in result.err
    (tmp_path / "file").write_text("")
    result = headrace(*arguments, "plain", "--out", tmp_path / "file" / "out")
    assert result.status == 2
    assert f"--out {tmp_path / 'file' / 'out'}: cannot be written: Not a directory" in result.err
    result = headrace(*arguments, "plain", "--out", "a\0b")
    assert result.status == 2
    assert "cannot be written: embedded null byte; give a writable directory" in result.err


def test_render_needs_kubectl_or_kustomize(
    headrace: Headrace, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST)
    kubectl = shutil.which("kubectl")
    monkeypatch.setenv("PATH", str(tmp_path))
    result = headrace(*arguments)
    assert result.status == 2
    assert "neither kubectl nor kustomize is on the PATH" in result.err
    if kubectl is None:
        pytest.skip("kubectl is not installed: the other name is not tried")
    # The other tool is equivalent: kustomize build DIR is kubectl kustomize DIR.
    tool = tmp_path / "kustomize"
    tool.write_text(f'#!/bin/sh\ntest "$1" = build && exec {kubectl} kustomize "$2"\n')
    tool.chmod(0o755)
    assert headrace(*arguments).status == 0


def test_message_includes_refusal_of_kustomize(
    headrace: Headrace, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [../nowhere]\n")
    result = headrace(
        "k8s",
        "render",
        "--model",
        "plain",
        "--store",
        store,
        "--image",
        DIGEST,
        "--overlay",
        tmp_path,
    )
    assert result.status == 2
    assert ": refused by kubectl kustomize: " in result.err
    assert "nowhere" in result.err
    assert subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True).returncode
