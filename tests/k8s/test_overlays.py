"""Every overlay as kustomize makes it: valid, and of one piece."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private import constants
from ray.serve.schema import ServeDeploySchema

from deployments import drain, request_guard
from deployments.cli.main import parser
from deployments.kubernetes import overlay, schemas, structure, validate
from deployments.kubernetes.own_rules import containers
from deployments.kubernetes.rules import groups, pod_spec
from deployments.local.environment import network_environment, serving_environment

pytestmark = pytest.mark.usefixtures("kustomize")
Objects = list[dict[str, Any]]

# Made by the operator of the cluster beforehand, or by Kubernetes itself: k8s/README.md lists them.
MADE_BEFOREHAND = {
    "headrace-ray-token", "headrace-api-keys", "headrace-trusted-keys",
    "headrace-store-credentials", "headrace-redis", "headrace-tls", "kube-root-ca.crt",
}  # fmt: skip
NAMES = ("cpu-dev", "gpu", "ha/redis", "ha/rocksdb", "incremental-upgrade", "kueue")
PARTS = ("api-keys", "ingress", "loader", "object-store", "three-replicas")
# Labels of pods that are not ours, in our namespace: clients, Redis, a gateway's.
OTHERS = (
    {"headrace-client": "true"},
    {"app.kubernetes.io/name": "redis"},
    {"gateway.networking.k8s.io/gateway-name": "headrace-gateway"},
)


def digest(objects: Objects) -> Objects:
    """The same with images by digest, as `render` would have them."""
    text = yaml.safe_dump_all(objects)
    for name in ("headrace-serving", "headrace-compression"):
        text = text.replace(f"image: {name}\n", f"image: {name}@sha256:{'0' * 64}\n")
    return list(yaml.safe_load_all(text))


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """If a pod with these labels is among those that a selector names."""
    expressions = selector.get("matchExpressions", ())
    assert all(each["operator"] == "Exists" for each in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        each["key"] in labels for each in expressions
    )


def pods(obj: dict[str, Any]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Labels and content of all pods that an object brings."""
    for _, group in groups(obj):
        yield group["template"]["metadata"]["labels"], pod_spec(group)
    if submitter := obj["spec"].get("submitterPodTemplate"):
        yield submitter["metadata"]["labels"], submitter["spec"]


def all_pods(objects: Objects) -> list[tuple[dict[str, str], dict[str, Any]]]:
    return [pod for obj in objects if obj["kind"].startswith("Ray") for pod in pods(obj)]


def test_the_overlays_are_these(overlays: dict[str, Objects]) -> None:
    assert set(overlays) == set(NAMES)
    parts = overlay.k8s_dir() / "components"
    assert {path.parent.name for path in parts.glob("*/kustomization.yaml")} == set(PARTS)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wrong_with_an_overlay(overlays: dict[str, Objects], name: str) -> None:
    objects = digest(overlays[name])
    assert validate.problems(objects) == []
    strange = {structure.key(each) for each in objects if not structure.known(each)}
    assert all("kueue.x-k8s.io/" in each for each in strange)
    assert not strange or name == "kueue"


@pytest.mark.parametrize("part", PARTS)
def test_nothing_is_wrong_with_a_component(part: str) -> None:
    root = overlay.k8s_dir()
    objects = overlay.build(root / "overlays" / "ha" / "redis", [root / "components" / part])
    assert validate.problems(digest(objects)) == []
    assert validate.unknown(objects) == []
    if part == "object-store":
        assert "persistentVolumeClaim" not in yaml.safe_dump_all(objects)


@pytest.mark.parametrize("name", NAMES)
def test_core_kinds_by_kubernetes_own_schemas(overlays: dict[str, Objects], name: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    checked = set()
    for obj in overlays[name]:
        if "." not in obj["apiVersion"].partition("/")[0] or "k8s.io" in obj["apiVersion"]:
            if "kueue" in obj["apiVersion"]:
                continue
            kubernetes_validate.validate(obj, schemas.KUBERNETES, strict=True)
            checked.add(obj["kind"])
    assert checked >= {"ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "NetworkPolicy"}


@pytest.mark.parametrize("name", NAMES)
def test_the_serve_config_is_one_that_serve_takes(overlays: dict[str, Objects], name: str) -> None:
    (service,) = [each for each in overlays[name] if each["kind"] == "RayService"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    for application in config.applications:
        module, _, builder = application.import_path.partition(":")
        assert callable(getattr(importlib.import_module(module), builder))


@pytest.mark.parametrize("name", NAMES)
def test_ray_starts_with_the_settings_of_a_local_cluster(
    overlays: dict[str, Objects], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_MAX_REQUEST_TIMEOUT_S", raising=False)
    (service,) = [each for each in overlays[name] if each["kind"] == "RayService"]
    for path, group in groups(service):
        given = {each["name"]: each["value"] for each in pod_spec(group)["containers"][0]["env"]}
        ours = {key: given.pop(key) for key in list(given) if key.startswith("RAY_")}
        program = {"RAY_SERVE_HAPROXY_BINARY_PATH": "/usr/local/bin/headrace-haproxy"}
        assert ours == serving_environment() | network_environment() | program, path
        assert set(given) == {"HOME", "XDG_CACHE_HOME", "HEADRACE_TRUSTED_KEYS"}


@pytest.mark.parametrize("name", NAMES)
def test_images_are_the_two_of_the_dockerfile(overlays: dict[str, Objects], name: str) -> None:
    images = {
        obj["kind"]: {container["image"] for _, container in containers(obj)}
        for obj in overlays[name]
        if obj["kind"].startswith("Ray")
    }
    assert images == {"RayService": {"headrace-serving"}, "RayJob": {"headrace-compression"}}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_is_there_or_made_beforehand(overlays: dict[str, Objects], name: str) -> None:
    objects = overlays[name]
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
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
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    for obj in objects:
        if obj["kind"].startswith("Ray"):
            walk(obj)
    assert ("Secret", "headrace-ray-token") in named
    for kind, each in named - there:
        assert each in MADE_BEFOREHAND, f"{kind} {each} is nowhere"
        assert each == "kube-root-ca.crt" or each in documented, each


@pytest.mark.parametrize("name", NAMES)
def test_a_mount_has_its_volume(overlays: dict[str, Objects], name: str) -> None:
    for obj in overlays[name]:
        for labels, pod in pods(obj) if obj["kind"].startswith("Ray") else ():
            volumes = {each["name"] for each in pod["volumes"]}
            for container in pod["containers"]:
                assert {each["name"] for each in container["volumeMounts"]} <= volumes, labels
        if obj["kind"] == "RayService":
            head = pod_spec(next(groups(obj))[1])
            mounted = obj["spec"]["rayClusterConfig"]["autoscalerOptions"]["volumeMounts"]
            assert {each["name"] for each in mounted} <= {each["name"] for each in head["volumes"]}


@pytest.mark.parametrize("name", NAMES)
def test_every_selector_selects_pods_and_every_pod_is_in_a_policy(
    overlays: dict[str, Objects], name: str
) -> None:
    objects = overlays[name]
    labels = [each for each, _ in all_pods(objects)]
    assert all(each["app.kubernetes.io/part-of"] == "headrace" for each in labels)

    def selected(selector: dict[str, Any]) -> list[dict[str, str]]:
        return [each for each in (*labels, *OTHERS) if selects(selector, each)]

    for obj in objects:
        if obj["kind"] == "NetworkPolicy":
            assert selected(obj["spec"]["podSelector"]), obj["metadata"]["name"]
        if obj["kind"] == "PodDisruptionBudget":
            assert selected(obj["spec"]["selector"])
    for obj in objects:
        for _, pod in pods(obj) if obj["kind"] == "RayService" else ():
            for each in pod.get("topologySpreadConstraints", ()):
                assert selected(each["labelSelector"])


@pytest.mark.parametrize("name", NAMES)
def test_both_ends_of_a_flow_let_it_through(overlays: dict[str, Objects], name: str) -> None:
    """Between pods of the namespace, ours and others', as the policies name them."""
    policies = [each["spec"] for each in overlays[name] if each["kind"] == "NetworkPolicy"]
    pods = [*(each for each, _ in all_pods(overlays[name])), *OTHERS]
    ends = {"ingress": ("from", "egress"), "egress": ("to", "ingress")}
    flows = {"ingress": 0, "egress": 0}

    def lets(pod: dict[str, str], way: str, peer: dict[str, str], port: int | None) -> bool:
        own = [each for each in policies if selects(each["podSelector"], pod)]
        if not any(way.title() in each["policyTypes"] for each in own):
            return True
        return any(
            (ends[way][0] not in rule or any(is_peer(each, peer) for each in rule[ends[way][0]]))
            and ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
            for each in own
            for rule in each.get(way, ())
        )

    def is_peer(peer: dict[str, Any], pod: dict[str, str]) -> bool:
        return "namespaceSelector" not in peer and selects(peer["podSelector"], pod)

    for policy in policies:
        for way, (side, other) in ends.items():
            for rule in policy.get(way, ()):
                ports = [each["port"] for each in rule.get("ports", ())] or [None]
                for pod in pods:
                    for peer in pods:
                        if selects(policy["podSelector"], pod) and any(
                            is_peer(each, peer) for each in rule.get(side, ())
                        ):
                            flows[way] += 1
                            assert all(lets(peer, other, pod, port) for port in ports), rule
    assert flows["ingress"] > 5
    assert flows["egress"] > 5


@pytest.mark.parametrize("name", NAMES)
def test_policies_open_ports_that_a_container_names_and_no_others(
    overlays: dict[str, Objects], name: str
) -> None:
    open_to: dict[int, set[str]] = {}
    for obj in overlays[name]:
        if obj["kind"] != "NetworkPolicy":
            continue
        selector = obj["spec"]["podSelector"].get("matchLabels", {})
        for rule in obj["spec"].get("ingress", ()):
            if "ports" not in rule:  # all, but only from pods of the same cluster
                (peer,) = rule["from"]
                assert peer == {"podSelector": {"matchLabels": selector}}
                continue
            assert rule["from"]
            if any(selects(obj["spec"]["podSelector"], each) for each in OTHERS):
                continue
            named = {
                port["containerPort"]
                for labels, pod in all_pods(overlays[name])
                if selector.items() <= labels.items()
                for container in pod["containers"]
                for port in container.get("ports", ())
            } | {44217}  # the autoscaler's, in the container that KubeRay adds
            for port in rule["ports"]:
                assert port["port"] in named, obj["metadata"]["name"]
                open_to.setdefault(port["port"], set()).add(obj["metadata"]["name"])
    # HAProxy's statistics and metrics, replicas, GCS, Ray client: to nobody.
    gateway = {"gateway"} if name == "incremental-upgrade" else set()
    assert open_to == {
        8000: {"requests"} | gateway,
        8265: {"operator"},
        8080: {"monitoring"},
        44217: {"monitoring"},
        44227: {"monitoring"},
    }
    (deny,) = [o for o in overlays[name] if o["metadata"]["name"] == "default-deny"]
    ours = {"matchLabels": {"app.kubernetes.io/part-of": "headrace"}}
    assert deny["spec"] == {"podSelector": ours, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("name", NAMES)
def test_no_pod_but_the_autoscaler_has_a_token_of_kubernetes(
    overlays: dict[str, Objects], name: str
) -> None:
    for _, pod in all_pods(overlays[name]):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.get("hostNetwork")
        for container in pod["containers"]:
            assert "kube-api" not in {each["name"] for each in container["volumeMounts"]}
            assert {"/tmp"} <= {each["mountPath"] for each in container["volumeMounts"]}
    for obj in overlays[name]:
        if obj["kind"] == "ServiceAccount":
            assert obj["automountServiceAccountToken"] is False
        assert obj["kind"] not in ("Secret", "Role", "RoleBinding", "ClusterRole")


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_of_replicas_drains_before_it_ends(overlays: dict[str, Objects], name: str) -> None:
    (service,) = [each for each in overlays[name] if each["kind"] == "RayService"]
    _, *found = groups(service)
    for path, group in found:
        pod = pod_spec(group)
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["python", "-m", drain.__name__], path
        assert pod["terminationGracePeriodSeconds"] > drain.DEADLINE_S
    drain_s = constants.RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S
    assert drain_s + request_guard.MAX_REQUEST_TIMEOUT_S <= drain.DEADLINE_S


def test_gpu_groups_name_their_nodes_and_what_they_tolerate(overlays: dict[str, Objects]) -> None:
    (service,) = [each for each in overlays["gpu"] if each["kind"] == "RayService"]
    _, *found = groups(service)
    targets = {}
    for _, group in found:
        pod = pod_spec(group)
        assert pod["tolerations"] == [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
        limits = pod["containers"][0]["resources"]["limits"]
        targets[group["template"]["metadata"]["labels"]["headrace-target"]] = (
            pod["nodeSelector"]["nvidia.com/gpu.product"], limits["nvidia.com/gpu"],
        )  # fmt: skip
    assert targets == {
        "cuda-sm90": ("NVIDIA-H100-80GB-HBM3", 8),
        "cuda-sm89": ("NVIDIA-L4", 1),
    }


def test_files_are_named_for_what_is_in_them() -> None:
    for path in overlay.k8s_dir().rglob("*.yaml"):
        if path.name == "kustomization.yaml" or "monitoring" in path.parts:
            continue
        kind = path.name.split(".")[0]
        for obj in yaml.safe_load_all(path.read_text()):
            assert obj["kind"].lower() == {"pvc": "persistentvolumeclaim"}.get(kind, kind), path


def test_every_file_is_used() -> None:
    for path in overlay.k8s_dir().rglob("*.yaml"):
        folder = Path(path.parent)
        if path.name != "kustomization.yaml" and (folder / "kustomization.yaml").is_file():
            whole = yaml.safe_load((folder / "kustomization.yaml").read_text())
            assert path.name in whole["resources"], path


def test_the_job_s_recipe_is_the_one_of_the_readme(overlays: dict[str, Objects]) -> None:
    (recipe,) = [o for o in overlays["cpu-dev"] if o["metadata"]["name"] == "headrace-recipe"]
    ours = Path(__file__).parents[2] / "deployments" / "recipes" / "digits-int8.yaml"
    assert yaml.safe_load(recipe["data"]["recipe.yaml"]) == yaml.safe_load(ours.read_text())


def test_the_ingress_leads_to_the_service_that_kuberay_makes() -> None:
    root = overlay.k8s_dir()
    objects = overlay.build(root / "overlays" / "cpu-dev", [root / "components" / "ingress"])
    (ingress,) = [each for each in objects if each["kind"] == "Ingress"]
    (service,) = [each for each in objects if each["kind"] == "RayService"]
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    backend = path["backend"]["service"]
    assert backend["name"] == f"{service['metadata']['name']}-serve-svc"
    assert backend["port"]["number"] == validate.SERVE_PORT
    assert ingress["spec"]["tls"][0]["secretName"] in MADE_BEFOREHAND


def test_the_commands_of_the_readme_of_k8s_exist() -> None:
    text = (overlay.k8s_dir() / "README.md").read_text()
    commands = re.findall(r"^headrace (.+)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        parser().parse_args(shlex.split(command.partition(" > ")[0]))


def test_the_readme_of_k8s_names_every_overlay_and_component() -> None:
    text = (overlay.k8s_dir() / "README.md").read_text()
    for name in (*NAMES, *PARTS):
        assert name in text
