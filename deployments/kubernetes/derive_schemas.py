"""Derives schemas.json.gz, the JSON Schemas of the kinds that k8s/ uses.

KubeRay's CRDs (OpenAPI v3) ──┐
Kubernetes' JSON Schemas ─────┴→ no descriptions, unknown fields refused, equal parts stored once
                                 → schemas.json.gz, read by schemas.py

python -m deployments.kubernetes.derive_schemas CRD_DIR     (needs kubernetes-validate)

CEL rules (``x-kubernetes-validations``) are left out: JSON Schema cannot express them.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deployments.kubernetes import manifest_yaml
from deployments.kubernetes.schemas import FILE

KUBERAY = "v1.7.0"
KUBERNETES = "1.32"
CORE = {
    "v1": (
        "configmap",
        "endpoints",
        "limitrange",
        "namespace",
        "persistentvolume",
        "persistentvolumeclaim",
        "pod",
        "resourcequota",
        "secret",
        "service",
        "serviceaccount",
    ),
    "apps-v1": ("daemonset", "deployment", "statefulset"),
    "batch-v1": ("cronjob", "job"),
    "networking-v1": ("ingress", "ingressclass", "networkpolicy"),
    "policy-v1": ("poddisruptionbudget",),
    "rbac-v1": ("clusterrole", "clusterrolebinding", "role", "rolebinding"),
}
"""Kinds of Kubernetes' own groups, as kubernetes-validate names their files.

An overlay may use only these kinds of these groups: a kind without a schema cannot be checked.
"""

_COPIED = (
    "type",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "required",
    "default",
)
"""Keywords that mean the same in OpenAPI v3 and JSON Schema."""

Schema = dict[str, Any]


class _Definitions:
    """Schemas by name, equal ones stored once."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        self._names: dict[str, str] = {}

    def reference(self, schema: Schema) -> Schema:
        text = json.dumps(schema, sort_keys=True)
        if text not in self._names:
            self._names[text] = f"d{len(self._names)}"
            self.schemas[self._names[text]] = schema
        return {"$ref": f"#/$defs/{self._names[text]}"}


def read_crds(directory: Path) -> list[dict[str, Any]]:
    """Return KubeRay's CRDs of a directory such as its ``ray-operator/config/crd/bases``."""
    paths = sorted(directory.glob("ray.io_*.yaml"))
    return [manifest_yaml.load(path.read_text(), str(path)) for path in paths]


def derive(crds: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the schemas of KubeRay's CRDs and of kubernetes-validate.

    ``{"kinds": {"ray.io/v1/RayService": ref, ...}, "$defs": {...}}``, with both versions.
    """
    parts = _Definitions()
    kinds: dict[str, Any] = {}
    definitions = _kubernetes("_definitions")["$defs"]
    metadata = definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]
    for crd in crds:
        for version in crd["spec"]["versions"]:
            if version["storage"]:
                key = f"{crd['spec']['group']}/{version['name']}/{crd['spec']['names']['kind']}"
                root = version["schema"]["openAPIV3Schema"]
                kinds[key] = _converted(root, parts, definitions, metadata)
    for root in (_kubernetes(f"{kind}-{group}") for group, names in CORE.items() for kind in names):
        (gvk,) = root["x-kubernetes-group-version-kind"]
        key = f"{gvk['group']}/{gvk['version']}/{gvk['kind']}".lstrip("/")
        kinds[key] = _converted(root, parts, definitions, metadata)
    return {"kuberay": KUBERAY, "kubernetes": KUBERNETES, "kinds": kinds, "$defs": parts.schemas}


def _converted(
    schema: Schema, parts: _Definitions, definitions: Schema, metadata: Schema
) -> Schema:
    """Return the JSON Schema of an OpenAPI v3 schema, Kubernetes' extensions expressed in it."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    converted = {name: schema[name] for name in _COPIED if name in schema}
    if schema.get("nullable"):
        converted["type"] = [converted["type"], "null"]
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        converted["type"] = ["integer", "string"]
    if "oneOf" in schema:  # of Kubernetes' own: an integer, a number or a string
        converted["type"] = [kind for each in schema["oneOf"] for kind in _listed(each["type"])]
    if schema.get("x-kubernetes-list-type") == "map":
        converted["x-keys"] = schema["x-kubernetes-list-map-keys"]
    if "properties" in schema:
        converted["properties"] = {
            name: _converted(metadata, parts, definitions, metadata)
            if name == "metadata" and each == {"type": "object"}
            else _converted(each, parts, definitions, metadata)
            for name, each in schema["properties"].items()
        }
        # The API server's strict decoding refuses unknown fields.
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            converted["additionalProperties"] = False
        return parts.reference(converted)
    if isinstance(schema.get("additionalProperties"), dict):
        values = schema["additionalProperties"]
        converted["additionalProperties"] = _converted(values, parts, definitions, metadata)
    if isinstance(schema.get("items"), dict):
        converted["items"] = _converted(schema["items"], parts, definitions, metadata)
    return converted


def _listed(kind: str | list[str]) -> list[str]:
    return [kind] if isinstance(kind, str) else kind


def _kubernetes(name: str) -> Any:
    import kubernetes_validate  # 108 MB of schemas, needed only to derive the file

    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    return json.loads((folder / f"v{KUBERNETES}.0-local-strict" / f"{name}.json").read_text())


def packed(derived: dict[str, Any]) -> bytes:
    """Return the file's content: equal schemas give equal bytes."""
    text = json.dumps(derived, sort_keys=True, separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


if __name__ == "__main__":
    FILE.write_bytes(packed(derive(read_crds(Path(sys.argv[1])))))
    print(f"{FILE}: {FILE.stat().st_size} bytes")
