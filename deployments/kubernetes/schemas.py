"""The structure of the kinds that k8s/ uses, as data: made once from what the projects publish.

CRDs (OpenAPI) ────────────┐
Kubernetes' JSON Schemas ──┴→ no descriptions, unknown fields refused, equal parts once
                              → schemas.json.gz, read by structure.py

python -m deployments.kubernetes.schemas CRD_DIR     writes it anew (needs kubernetes-validate)
"""

from __future__ import annotations

import gzip
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("schemas.json.gz")

KUBERAY = "v1.7.0"
KUBERNETES = "1.32"
CORE = {
    "v1": (
        "configmap", "endpoints", "limitrange", "namespace", "persistentvolume",
        "persistentvolumeclaim", "pod", "resourcequota", "secret", "service", "serviceaccount",
    ),
    "apps-v1": ("daemonset", "deployment", "statefulset"),
    "batch-v1": ("cronjob", "job"),
    "networking-v1": ("ingress", "ingressclass", "networkpolicy"),
    "policy-v1": ("poddisruptionbudget",),
    "rbac-v1": ("clusterrole", "clusterrolebinding", "role", "rolebinding"),
}  # fmt: skip
"""Kinds of Kubernetes' own groups, as kubernetes-validate names their files. Of these groups an
overlay may bring these kinds and no others, because a kind without a schema is not checked."""

_KEPT = (
    "type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems",
    "required", "default",
)  # fmt: skip

Schema = dict[str, Any]


@cache
def schemas() -> dict[str, Any]:
    """``{"kinds": {"ray.io/v1/RayService": ref, ...}, "$defs": {...}}``, as JSON Schema."""
    loaded: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))
    return loaded


class _Parts:
    """Equal schemas become one definition."""

    def __init__(self) -> None:
        self.defs: dict[str, Schema] = {}
        self._names: dict[str, str] = {}

    def once(self, schema: Schema) -> Schema:
        text = json.dumps(schema, sort_keys=True)
        if text not in self._names:
            self._names[text] = f"d{len(self._names)}"
            self.defs[self._names[text]] = schema
        return {"$ref": f"#/$defs/{self._names[text]}"}


def derive(crd_dir: Path) -> dict[str, Any]:
    """The schemas, from KubeRay's CRDs in ``crd_dir`` and the package kubernetes-validate."""
    parts = _Parts()
    kinds: dict[str, Any] = {}
    definitions = _kubernetes("_definitions")["$defs"]
    metadata = definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]
    for path in sorted(crd_dir.glob("ray.io_*.yaml")):
        crd = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        for version in crd["spec"]["versions"]:
            if version["storage"]:
                key = f"{crd['spec']['group']}/{version['name']}/{crd['spec']['names']['kind']}"
                root = version["schema"]["openAPIV3Schema"]
                kinds[key] = _compact(root, parts, definitions, metadata)
    for root in (_kubernetes(f"{kind}-{group}") for group, names in CORE.items() for kind in names):
        (gvk,) = root["x-kubernetes-group-version-kind"]
        key = f"{gvk['group']}/{gvk['version']}/{gvk['kind']}".lstrip("/")
        kinds[key] = _compact(root, parts, definitions, metadata)
    return {"kuberay": KUBERAY, "kubernetes": KUBERNETES, "kinds": kinds, "$defs": parts.defs}


def _compact(schema: Schema, parts: _Parts, definitions: Schema, metadata: Schema) -> Schema:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    made = {name: schema[name] for name in _KEPT if name in schema}
    if schema.get("nullable"):
        made["type"] = [made["type"], "null"]
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        made["type"] = ["integer", "string"]
    if "oneOf" in schema:  # of Kubernetes' own: an integer, a number or a string
        made["type"] = [kind for each in schema["oneOf"] for kind in _listed(each["type"])]
    if schema.get("x-kubernetes-list-type") == "map":
        made["x-keys"] = schema["x-kubernetes-list-map-keys"]
    if "properties" in schema:
        made["properties"] = {
            name: _compact(metadata, parts, definitions, metadata)
            if name == "metadata" and each == {"type": "object"}
            else _compact(each, parts, definitions, metadata)
            for name, each in schema["properties"].items()
        }
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
        return parts.once(made)
    if isinstance(schema.get("additionalProperties"), dict):
        more = schema["additionalProperties"]
        made["additionalProperties"] = _compact(more, parts, definitions, metadata)
    if isinstance(schema.get("items"), dict):
        made["items"] = _compact(schema["items"], parts, definitions, metadata)
    return made


def _listed(kind: str | list[str]) -> list[str]:
    return [kind] if isinstance(kind, str) else kind


def _kubernetes(name: str) -> Any:
    import kubernetes_validate  # 108 MB of schemas: for making the file, not for using it

    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    return json.loads((folder / f"v{KUBERNETES}.0-local-strict" / f"{name}.json").read_text())


def packed(made: dict[str, Any]) -> bytes:
    """The file's content: the same bytes for the same schemas."""
    text = json.dumps(made, sort_keys=True, separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


if __name__ == "__main__":
    FILE.write_bytes(packed(derive(Path(sys.argv[1]))))
    print(f"{FILE}: {FILE.stat().st_size} bytes")
