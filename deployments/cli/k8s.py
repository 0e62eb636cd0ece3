"""``headrace k8s render``: manifests for a model and a plan, checked before they are written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ConfigError
from deployments.cli.inspect import open_artifact
from deployments.kubernetes import overlay, stores, structure, validate
from deployments.kubernetes.plan_file import read_plan
from deployments.kubernetes.render import Asked, rendered

_OBJECT_STORE = "object-store"
_BUDGET = "PodDisruptionBudget"


def render(
    ref: str,
    name: str | None,
    plan: Path | None,
    overlay_name: str,
    image: str,
    store: str | None,
    require_signature: bool,
    out: Path | None,
) -> int:
    """Print the manifests, or write one file for each object to ``out``.

    ConfigError naming what does not fit (overlay, plan, image, store, a field) and PlanError if the
    overlay has no room for the plan; then nothing is written.
    """
    folder = overlay.overlay_dir(overlay_name)
    remote = store if store is not None and "://" in store else None
    if remote is not None:
        stores.require_reachable(remote)
    artifact = open_artifact(ref, store)
    components = [overlay.k8s_dir() / "components" / _OBJECT_STORE] if remote else []
    base = overlay.build(folder, components)
    validate.require_applicable(base)  # before anything is looked for in them
    asked = Asked(
        artifact=artifact,
        name=artifact.manifest.name if name is None else name,
        image=image,
        plan=None if plan is None else read_plan(plan, artifact),
        store=remote,
        require_signature=require_signature,
    )
    objects = rendered(base, asked)
    validate.require_valid(objects)
    if out is None:
        print("---\n".join(_text(each) for each in objects), end="")
    else:
        write(objects, out)
        print(f"{len(objects)} objects in {out}: `{_apply(objects)} -k {out}`")
    for name in _budgets(base) - _budgets(objects):
        print(
            f"headrace: no {name}: with one replica at least it would hold up every node drain; "
            "raise the group's replicas to keep it, or delete it where it has been applied",
            file=sys.stderr,
        )
    if unchecked := validate.unknown(objects):
        print(f"headrace: not checked: {', '.join(unchecked)}", file=sys.stderr)
    return 0


def _apply(objects: list[dict[str, Any]]) -> str:
    """The command; most overlays leave the namespace to it."""
    named = all("namespace" in each["metadata"] for each in objects)
    return "kubectl apply" if named else "kubectl --namespace NAMESPACE apply"


def _budgets(objects: list[dict[str, Any]]) -> set[str]:
    return {structure.name(each) for each in objects if each["kind"] == _BUDGET}


def write(objects: list[dict[str, Any]], out: Path) -> None:
    """One file per object, named ``kind.name.yaml``, and a kustomization.yaml of them all.

    ConfigError if the directory cannot be written.
    """
    files = {_file(each): _text(each) for each in objects}
    whole = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    files["kustomization.yaml"] = yaml.safe_dump(whole, sort_keys=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_text(content, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"--out {out}: cannot be written: {why}; give a directory of yours"
        ) from error


def _file(obj: dict[str, Any]) -> str:
    kind, _, name = structure.name(obj).lower().partition("/")
    return f"{kind}.{name}.yaml"


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines, such as the Serve config, as lines."""


def _lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _lines)


def _text(obj: dict[str, Any]) -> str:
    return str(yaml.dump(obj, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
