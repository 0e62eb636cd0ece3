"""Every overlay, built by kustomize: valid, and consistent with the code and the README."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import yaml
from overlay_objects import EXTERNAL, NAMES, PARTS, Objects, all_pods, pods, with_digests
from ray.serve.schema import ServeDeploySchema

from deployments import app, drain
from deployments.kubernetes import derive_schemas, overlay, schemas, serving, validate
from deployments.kubernetes.pods import containers, groups, pod_spec
from deployments.ray import time_limits
from deployments.ray.environment import network_environment, serving_environment

pytestmark = pytest.mark.usefixtures("kustomize")


def test_overlays_and_components_are_the_listed_ones(overlays: dict[str, Objects]) -> None:
    assert set(overlays) == set(NAMES)
    parts = overlay.k8s_dir() / "components"
    assert {path.parent.name for path in parts.glob("*/kustomization.yaml")} == set(PARTS)


@pytest.mark.parametrize("name", NAMES)
def test_overlay_has_no_problems(overlays: dict[str, Objects], name: str) -> None:
    objects = with_digests(overlays[name])
    assert validate.problems(objects) == []
    unchecked = {schemas.kind_key(obj) for obj in objects if not schemas.has_schema(obj)}
    assert all("kueue.x-k8s.io/" in kind for kind in unchecked)
    assert not unchecked or name == "kueue"


@pytest.mark.parametrize("part", PARTS)
def test_component_has_no_problems(part: str) -> None:
    root = overlay.k8s_dir()
    objects = overlay.build(root / "overlays" / "ha" / "redis", [root / "components" / part])
    assert validate.problems(with_digests(objects)) == []
    assert validate.unchecked(objects) == []
    if part == "object-store":
        assert "persistentVolumeClaim" not in yaml.safe_dump_all(objects)


@pytest.mark.parametrize("without", ["loader", "object-store"])
def test_components_have_no_problems_together(without: str) -> None:
    """Leave out one of the two that exclude each other: a bucket replaces the claim to fill."""
    root = overlay.k8s_dir()
    parts = [root / "components" / part for part in PARTS if part != without]
    objects = overlay.build(root / "overlays" / "kueue", parts)
    assert validate.problems(with_digests(objects)) == []


@pytest.mark.parametrize("name", NAMES)
def test_core_kinds_match_the_schemas_of_kubernetes(
    overlays: dict[str, Objects], name: str
) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    checked = set()
    for obj in overlays[name]:
        if "." not in obj["apiVersion"].partition("/")[0] or "k8s.io" in obj["apiVersion"]:
            if "kueue" in obj["apiVersion"]:
                continue
            kubernetes_validate.validate(obj, derive_schemas.KUBERNETES, strict=True)
            checked.add(obj["kind"])
    assert checked >= {"ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "NetworkPolicy"}


@pytest.mark.parametrize("name", NAMES)
def test_serve_accepts_the_serve_config(overlays: dict[str, Objects], name: str) -> None:
    (service,) = [obj for obj in overlays[name] if obj["kind"] == "RayService"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    for application in config.applications:
        module, _, builder = application.import_path.partition(":")
        assert callable(getattr(importlib.import_module(module), builder))


@pytest.mark.parametrize("name", NAMES)
def test_pods_have_the_environment_of_a_local_cluster(
    overlays: dict[str, Objects], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_MAX_REQUEST_TIMEOUT_S", raising=False)
    (service,) = [obj for obj in overlays[name] if obj["kind"] == "RayService"]
    for path, group in groups(service):
        environment = {
            entry["name"]: entry["value"] for entry in pod_spec(group)["containers"][0]["env"]
        }
        for variable in ("HOME", "XDG_CACHE_HOME", "HEADRACE_TRUSTED_KEYS"):
            del environment[variable]
        program = {"RAY_SERVE_HAPROXY_BINARY_PATH": "/usr/local/bin/headrace-haproxy"}
        assert environment == serving_environment() | network_environment() | program, path


@pytest.mark.parametrize("name", NAMES)
def test_images_are_those_of_the_dockerfile(overlays: dict[str, Objects], name: str) -> None:
    images = {
        obj["kind"]: {container["image"] for _, container in containers(obj)}
        for obj in overlays[name]
        if obj["kind"].startswith("Ray")
    }
    assert images == {"RayService": {"headrace-serving"}, "RayJob": {"headrace-compression"}}


@pytest.mark.parametrize("name", NAMES)
def test_references_exist_or_are_documented(overlays: dict[str, Objects], name: str) -> None:
    objects = overlays[name]
    rendered = {(obj["kind"], obj["metadata"]["name"]) for obj in objects}
    documented = (overlay.k8s_dir() / "README.md").read_text()
    named: set[tuple[str, str]] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for key, kind, field in (
                ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
                ("secret", "Secret", "secretName"),
                ("configMap", "ConfigMap", "name"),
                ("configMapRef", "ConfigMap", "name"),
                ("secretRef", "Secret", "name"),
                ("secretKeyRef", "Secret", "name"),
                ("authOptions", "Secret", "secretName"),
            ):
                if isinstance(value.get(key), dict):
                    named.add((kind, value[key][field]))
            if "serviceAccountName" in value:
                named.add(("ServiceAccount", value["serviceAccountName"]))
            for nested in value.values():
                walk(nested)
        elif isinstance(value, list):
            for nested in value:
                walk(nested)

    for obj in objects:
        if obj["kind"].startswith("Ray"):
            walk(obj)
    assert ("Secret", "headrace-ray-token") in named
    for kind, reference in named - rendered:
        assert reference in EXTERNAL, f"{kind} {reference} does not exist"
        assert reference == "kube-root-ca.crt" or reference in documented, reference


@pytest.mark.parametrize("name", NAMES)
def test_every_mount_has_a_volume(overlays: dict[str, Objects], name: str) -> None:
    for obj in overlays[name]:
        for labels, pod in pods(obj) if obj["kind"].startswith("Ray") else ():
            volumes = {volume["name"] for volume in pod["volumes"]}
            for container in pod["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, labels
        if obj["kind"] == "RayService":
            head = pod_spec(next(groups(obj))[1])
            mounts = obj["spec"]["rayClusterConfig"]["autoscalerOptions"]["volumeMounts"]
            assert {mount["name"] for mount in mounts} <= {
                volume["name"] for volume in head["volumes"]
            }


@pytest.mark.parametrize("name", NAMES)
def test_only_the_autoscaler_has_a_kubernetes_token(
    overlays: dict[str, Objects], name: str
) -> None:
    for _, pod in all_pods(overlays[name]):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.get("hostNetwork")
        for container in pod["containers"]:
            assert "kube-api" not in {mount["name"] for mount in container["volumeMounts"]}
            assert {"/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
    for obj in overlays[name]:
        if obj["kind"] == "ServiceAccount":
            assert obj["automountServiceAccountToken"] is False
        assert obj["kind"] not in ("Secret", "Role", "RoleBinding", "ClusterRole")


@pytest.mark.parametrize("name", NAMES)
def test_pod_of_replicas_drains_before_it_stops(overlays: dict[str, Objects], name: str) -> None:
    (service,) = [obj for obj in overlays[name] if obj["kind"] == "RayService"]
    _, *workers = groups(service)
    for path, group in workers:
        pod = pod_spec(group)
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["python", "-P", "-m", drain.__name__], path
        assert pod["terminationGracePeriodSeconds"] > time_limits.node_drain_s({})


@pytest.mark.parametrize("name", NAMES)
def test_spread_counts_usable_nodes_of_the_same_cluster(
    overlays: dict[str, Objects], name: str
) -> None:
    """A cordoned node, or the other cluster of an upgrade, must not block a pod."""
    (service,) = [obj for obj in overlays[name] if obj["kind"] == "RayService"]
    _, *workers = groups(service)
    for _, group in workers:
        hosts, zones = pod_spec(group)["topologySpreadConstraints"]
        assert hosts["topologyKey"] == "kubernetes.io/hostname"
        strict = "DoNotSchedule" if name.startswith("ha/") else "ScheduleAnyway"
        assert (hosts["whenUnsatisfiable"], zones["whenUnsatisfiable"]) == (
            strict,
            "ScheduleAnyway",
        )
        for constraint in (hosts, zones):
            assert constraint["nodeTaintsPolicy"] == "Honor"
            assert constraint["matchLabelKeys"] == ["ray.io/cluster"]


@pytest.mark.parametrize("name", ["ha/redis", "ha/rocksdb"])
def test_ha_evicts_pods_of_a_lost_node_after_20_s(overlays: dict[str, Objects], name: str) -> None:
    (service,) = [obj for obj in overlays[name] if obj["kind"] == "RayService"]
    for path, group in groups(service):
        tolerations = {entry["key"]: entry for entry in pod_spec(group)["tolerations"]}
        for reason in ("unreachable", "not-ready"):
            toleration = tolerations[f"node.kubernetes.io/{reason}"]
            assert (toleration["effect"], toleration["tolerationSeconds"]) == ("NoExecute", 20), (
                path
            )


def test_catalog_has_the_name_that_serve_configs_use() -> None:
    """Serve refuses options of an unknown deployment."""
    assert app.catalog({})._bound_deployment.name == serving.CATALOG_DEPLOYMENT


def test_gpu_groups_select_and_tolerate_their_nodes(overlays: dict[str, Objects]) -> None:
    (service,) = [obj for obj in overlays["gpu"] if obj["kind"] == "RayService"]
    _, *workers = groups(service)
    targets = {}
    for _, group in workers:
        pod = pod_spec(group)
        assert pod["tolerations"] == [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
        limits = pod["containers"][0]["resources"]["limits"]
        targets[group["template"]["metadata"]["labels"]["headrace-target"]] = (
            pod["nodeSelector"]["nvidia.com/gpu.product"],
            limits["nvidia.com/gpu"],
        )
    assert targets == {
        "cuda-sm90": ("NVIDIA-H100-80GB-HBM3", 8),
        "cuda-sm89": ("NVIDIA-L4", 1),
    }
