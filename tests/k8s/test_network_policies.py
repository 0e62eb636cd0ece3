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
def test_both_ends_of_a_flow_allow_it(overlays: dict[str, Objects], name: str) -> None:
    """A flow is between pods of the namespace, ours and foreign ones."""
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
def test_only_the_head_reaches_the_kubernetes_api(overlays: dict[str, Objects], name: str) -> None:
    (policy,) = [o for o in overlays[name] if o["metadata"]["name"] == "kube-api"]
    reached = [
        labels
        for labels, _ in all_pods(overlays[name])
        if selects(policy["spec"]["podSelector"], labels)
    ]
    assert [each["app.kubernetes.io/instance"] for each in reached] == ["serving"]
    assert [each["app.kubernetes.io/component"] for each in reached] == ["head"]
