"""Network policies of every overlay, evaluated on the labels of its pods."""

from __future__ import annotations

from typing import Any

import pytest
from overlay_objects import NAMES, OTHERS, Objects, all_pods, pods

from deployments.kubernetes.pods import selects

pytestmark = pytest.mark.usefixtures("kustomize")


@pytest.mark.parametrize("name", NAMES)
def test_every_selector_matches_pods(overlays: dict[str, Objects], name: str) -> None:
    objects = overlays[name]
    labels = [pod_labels for pod_labels, _ in all_pods(objects)]
    assert all(pod_labels["app.kubernetes.io/part-of"] == "headrace" for pod_labels in labels)

    def selected(selector: dict[str, Any]) -> list[dict[str, str]]:
        return [pod for pod in (*labels, *OTHERS) if selects(selector, pod)]

    for obj in objects:
        if obj["kind"] == "NetworkPolicy":
            assert selected(obj["spec"]["podSelector"]), obj["metadata"]["name"]
        if obj["kind"] == "PodDisruptionBudget":
            assert selected(obj["spec"]["selector"])
    for obj in objects:
        for _, pod in pods(obj) if obj["kind"] == "RayService" else ():
            for constraint in pod.get("topologySpreadConstraints", ()):
                assert selected(constraint["labelSelector"])


@pytest.mark.parametrize("name", NAMES)
def test_both_ends_of_a_flow_allow_it(overlays: dict[str, Objects], name: str) -> None:
    """A flow is between pods of the namespace, ours and foreign ones."""
    policies = [obj["spec"] for obj in overlays[name] if obj["kind"] == "NetworkPolicy"]
    pods = [*(labels for labels, _ in all_pods(overlays[name])), *OTHERS]
    ends = {"ingress": ("from", "egress"), "egress": ("to", "ingress")}
    flows = {"ingress": 0, "egress": 0}

    def allows(pod: dict[str, str], direction: str, peer: dict[str, str], port: int | None) -> bool:
        selecting = [policy for policy in policies if selects(policy["podSelector"], pod)]
        if not any(direction.title() in policy["policyTypes"] for policy in selecting):
            return True
        side = ends[direction][0]
        return any(
            (side not in rule or any(is_peer(end, peer) for end in rule[side]))
            and ("ports" not in rule or port in [entry["port"] for entry in rule["ports"]])
            for policy in selecting
            for rule in policy.get(direction, ())
        )

    def is_peer(peer: dict[str, Any], pod: dict[str, str]) -> bool:
        return "namespaceSelector" not in peer and selects(peer["podSelector"], pod)

    for policy in policies:
        for direction, (side, other) in ends.items():
            for rule in policy.get(direction, ()):
                ports = [entry["port"] for entry in rule.get("ports", ())] or [None]
                for pod in pods:
                    for peer in pods:
                        if selects(policy["podSelector"], pod) and any(
                            is_peer(end, peer) for end in rule.get(side, ())
                        ):
                            flows[direction] += 1
                            assert all(allows(peer, other, pod, port) for port in ports), rule
    assert flows["ingress"] > 5
    assert flows["egress"] > 5


@pytest.mark.parametrize("name", NAMES)
def test_policies_open_only_ports_of_containers(overlays: dict[str, Objects], name: str) -> None:
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
            if any(selects(obj["spec"]["podSelector"], pod) for pod in OTHERS):
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
    # HAProxy's statistics and metrics, replicas, GCS, Ray client: open to no peer.
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
def test_only_the_head_reaches_the_kubernetes_api(overlays: dict[str, Objects], name: str) -> None:
    (policy,) = [o for o in overlays[name] if o["metadata"]["name"] == "kube-api"]
    reached = [
        labels
        for labels, _ in all_pods(overlays[name])
        if selects(policy["spec"]["podSelector"], labels)
    ]
    assert [labels["app.kubernetes.io/instance"] for labels in reached] == ["serving"]
    assert [labels["app.kubernetes.io/component"] for labels in reached] == ["head"]
