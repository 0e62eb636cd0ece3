"""All checks of manifests that need no cluster, in one list of problems.

object → fields and types → rules for one object, the Serve config inside ─┐
all objects, if each is valid → rules across objects ──────────────────────┴→ problems
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cluster.errors import ConfigError
from deployments.config import serve_config
from deployments.kubernetes import manifest_yaml, schemas
from deployments.kubernetes.cross_rules import CROSS_RULES
from deployments.kubernetes.rules import RENDER_RULES, RULES

Object = dict[str, Any]
Rule = Callable[[Object], Iterator[str]]

SERVE_PORT = 8000
"""Port on which KubeRay's Service and probes expect Serve."""


def problems(objects: Sequence[Object]) -> list[str]:
    """Return one line per problem: object, path, given, expected, fix."""
    lines: list[str] = []
    seen: set[str] = set()
    for obj in objects:
        name = schemas.object_name(obj)
        if name in seen:
            lines.append(f"{name}: duplicate object; keep one")
        seen.add(name)
        lines += _object_problems(obj, (*RULES, _serve_config))
    # Rules across objects rely on valid objects.
    return lines or [line for rule in CROSS_RULES for line in rule(objects)]


def require_valid(objects: Sequence[Object]) -> None:
    """Check everything; ConfigError with all problems."""
    if lines := problems(objects):
        raise ConfigError("\n".join(lines))


def require_renderable(objects: Sequence[Object]) -> None:
    """Check the fields and types of an overlay, on which ``render`` relies; ConfigError."""
    if lines := [line for obj in objects for line in _object_problems(obj, RENDER_RULES)]:
        raise ConfigError("\n".join(lines))


def unchecked(objects: Sequence[Object]) -> list[str]:
    """Return the names of objects without a schema: Kueue's, the gateway's, Prometheus'."""
    return [schemas.object_name(obj) for obj in objects if not schemas.has_schema(obj)]


def _object_problems(obj: Object, rules: Sequence[Rule]) -> list[str]:
    if lines := schemas.problems(obj):  # rules rely on fields and types
        return lines
    filled, name = schemas.with_defaults(obj), schemas.object_name(obj)
    return [f"{name}: {line}" for rule in rules for line in rule(filled)]


def _serve_config(obj: Object) -> Iterator[str]:
    """Check the Serve config of a RayService as `serve deploy` would."""
    if obj["kind"] != "RayService":
        return
    path = "spec.serveConfigV2"
    try:
        content = manifest_yaml.load(obj["spec"].get("serveConfigV2") or "", path)
        config = serve_config.check_content(content, path)
    except ConfigError as error:
        yield from str(error).splitlines()
    else:
        if config.port not in (None, SERVE_PORT):
            yield (
                f"{path}: http_options.port: must be {SERVE_PORT}, the port of KubeRay's Service "
                f"and probes (given: {config.port})"
            )
