"""``headrace k8s render``: manifests for a model and a plan, checked before they are written.

artifact, plan, overlay → render → validate → standard output, or one file per object in --out
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cluster.artifact.lookup import open_artifact
from cluster.errors import ConfigError
from deployments.kubernetes import manifest_yaml, overlay, validate
from deployments.kubernetes.plan_file import read_plan
from deployments.kubernetes.render import RenderOptions, rendered, require_shared_store
from deployments.kubernetes.schemas import object_name

_OBJECT_STORE = "object-store"
_BUDGET = "PodDisruptionBudget"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``headrace k8s``."""
    commands = parser.add_subparsers(dest="k8s_command", required=True, metavar="COMMAND")
    render = commands.add_parser("render", help="write the manifests of one model, checked")
    render.add_argument("--model", required=True, help="name, id, or beginning of an artifact's id")
    render.add_argument("--name", help="in URLs; default: the artifact's")
    render.add_argument("--plan", type=Path, metavar="FILE", help="of `headrace plan --json`")
    render.add_argument(
        "--overlay", default="cpu-dev", help="one of k8s/overlays, or a directory; default cpu-dev"
    )
    render.add_argument("--image", required=True, help="NAME@sha256:... of the serving image")
    render.add_argument(
        "--store",
        help="directory or URI to read the manifest from; replicas read from a URI, too, and else "
        "from the claim",
    )
    render.add_argument(
        "--require-signature",
        action="store_true",
        help="replicas load the artifact only if a key of the Secret headrace-trusted-keys has "
        "signed it",
    )
    render.add_argument("--out", type=Path, metavar="DIR", help="default: standard output")


def run(args: argparse.Namespace) -> int:
    """Run the command with its parsed arguments and return the exit status."""
    return render(
        args.model,
        args.name,
        args.plan,
        args.overlay,
        args.image,
        args.store,
        args.require_signature,
        args.out,
    )


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

    ConfigError for an invalid overlay, plan, image, store or field; PlanError if no group of the
    overlay can hold a replica. Nothing is written then.
    """
    folder = overlay.overlay_dir(overlay_name)
    remote = store if store is not None and "://" in store else None
    if remote is not None:
        require_shared_store(remote)
    artifact = open_artifact(ref, store)
    components = [overlay.k8s_dir() / "components" / _OBJECT_STORE] if remote else []
    base = overlay.build(folder, components)
    validate.require_renderable(base)
    options = RenderOptions(
        artifact=artifact,
        name=artifact.manifest.name if name is None else name,
        image=image,
        plan=None if plan is None else read_plan(plan, artifact),
        store=remote,
        require_signature=require_signature,
    )
    objects = rendered(base, options)
    validate.require_valid(objects)
    if out is None:
        print("---\n".join(manifest_yaml.dump(obj) for obj in objects), end="")
    else:
        write(objects, out)
        print(f"{len(objects)} objects in {out}: `{_apply(objects)} -k {out}`")
    for name in _budgets(base) - _budgets(objects):
        print(
            f"headrace: {name} is left out: with one replica it would block every node drain; "
            "raise the group's replicas to keep it, or delete it where it has been applied",
            file=sys.stderr,
        )
    if unchecked := validate.unchecked(objects):
        print(
            f"headrace: not checked, their kinds have no schema here: {', '.join(unchecked)}",
            file=sys.stderr,
        )
    return 0


def _apply(objects: list[dict[str, Any]]) -> str:
    """Return the command to apply the objects; most overlays have no namespace."""
    namespaced = all("namespace" in obj["metadata"] for obj in objects)
    return "kubectl apply" if namespaced else "kubectl --namespace NAMESPACE apply"


def _budgets(objects: list[dict[str, Any]]) -> set[str]:
    return {object_name(obj) for obj in objects if obj["kind"] == _BUDGET}


def write(objects: list[dict[str, Any]], out: Path) -> None:
    """Write one file per object, named ``kind.name.yaml``, and a kustomization.yaml of all.

    ConfigError if the directory cannot be written.
    """
    files = {_file(obj): manifest_yaml.dump(obj) for obj in objects}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    files["kustomization.yaml"] = manifest_yaml.dump(kustomization)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_text(content, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"--out {out}: cannot be written: {reason}; give a writable directory"
        ) from error


def _file(obj: dict[str, Any]) -> str:
    kind, _, name = object_name(obj).lower().partition("/")
    return f"{kind}.{name}.yaml"
