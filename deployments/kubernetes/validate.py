"""Everything that can be known of manifests before a cluster sees them, in one list.

objects → fields and types → rules of KubeRay and of ours → the Serve config inside ─┐
        → if each is right: rules of several objects ──────────────────────────────────┴→ problems
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from cluster.errors import ConfigError
from deployments.config import serve_config
from deployments.kubernetes import structure
from deployments.kubernetes.own_rules import OWN_RULES
from deployments.kubernetes.rules import RULES
from deployments.kubernetes.together import RULES_TOGETHER

Object = dict[str, Any]

SERVE_PORT = 8000
"""Where KubeRay's Service and probes expect Serve."""


def problems(objects: Sequence[Object]) -> list[str]:
    """What is wrong with the objects, a line each: which object, the path, what would be right."""
    found: list[str] = []
    seen: set[str] = set()
    for obj in objects:
        name = structure.name(obj)
        if name in seen:
            found.append(f"{name}: there are two of it")
        seen.add(name)
        wrong = structure.problems(obj)
        found += wrong
        if wrong:  # the rules may count on fields and types
            continue
        filled = structure.defaulted(obj)
        found += [f"{name}: {line}" for rule in (*RULES, *OWN_RULES) for line in rule(filled)]
        found += _serve_config(obj)
    # They may count on each object being right, too.
    return found or [line for rule in RULES_TOGETHER for line in rule(objects)]


def require_valid(objects: Sequence[Object]) -> None:
    """ConfigError with all problems, if there are any."""
    if found := problems(objects):
        raise ConfigError("\n".join(found))


def require_applicable(objects: Sequence[Object]) -> None:
    """ConfigError with all that Kubernetes or KubeRay would refuse: fields, types, rules."""
    found: list[str] = []
    for obj in objects:
        wrong = structure.problems(obj)
        if not wrong:
            filled = structure.defaulted(obj)
            wrong = [f"{structure.name(obj)}: {line}" for rule in RULES for line in rule(filled)]
        found += wrong
    if found:
        raise ConfigError("\n".join(found))


def unknown(objects: Sequence[Object]) -> list[str]:
    """Objects of kinds that have no schema here: Kueue's, the gateway's, Prometheus'."""
    return [structure.name(obj) for obj in objects if not structure.known(obj)]


def _serve_config(obj: Object) -> list[str]:
    if obj["kind"] != "RayService":
        return []
    where = f"{structure.name(obj)}: spec.serveConfigV2"
    try:
        checked = serve_config.check_content(
            yaml.safe_load(obj["spec"].get("serveConfigV2") or ""), where
        )
    except yaml.YAMLError as error:
        return [f"{where}: not valid YAML: {error}"]
    except ConfigError as error:
        return str(error).splitlines()
    if checked.port not in (None, SERVE_PORT):
        return [f"{where}: http_options.port: must be {SERVE_PORT}, where KubeRay looks for it"]
    return []
