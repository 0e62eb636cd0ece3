"""Manifests for one model: an overlay's objects, with the artifact, plan and image put in.

artifact, plan ─→ target, bundles ─→ the group that has such devices, its pods sized
artifact, plan ─→ model's args    ─→ serveConfigV2
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from cluster.artifact.artifact import Artifact
from cluster.errors import ConfigError, PlanError
from cluster.parallel.plan import Placement
from cluster.parallel.plan import bundles as bundles_of
from deployments import serve_config
from deployments.kubernetes import structure
from deployments.kubernetes.sizes import Fitted, Need, fit
from deployments.names import MODEL_DEPLOYMENT_PREFIX
from deployments.placement import DEVICES_VARIABLE

Object = dict[str, Any]

TARGET_LABEL = "headrace-target"
"""Label of a group's pods: whose programs run there."""

STORE = "headrace-store"
"""The ConfigMap that says where artifacts are."""

_ARTIFACTS = "artifacts"  # the volume, where they are in a claim
_IMAGE = re.compile(r"[A-Za-z0-9][\w.:/-]*(@sha256:[0-9a-f]{64})?")
_BUILD_ONLY = ("RayJob/headrace-compression", "ConfigMap/headrace-recipe")


@dataclass(frozen=True)
class Plan:
    """What `headrace plan --json` printed, as far as manifests need it."""

    target: str
    pipeline: int
    tensor: int
    batch: int
    need: Need

    @property
    def cut(self) -> bool:
        """If a replica is more than one shard."""
        return self.pipeline * self.tensor > 1


@dataclass(frozen=True)
class Asked:
    """What is to be served, and how."""

    artifact: Artifact
    name: str
    image: str
    plan: Plan | None
    store: str | None
    """A URI that replicas read from; None: the claim."""


def read_plan(path: Path, artifact: Artifact) -> Plan:
    """The plan in a file; ConfigError if it is none, or one for another artifact."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        shards = raw["shards"]
        plan = Plan(
            target=str(raw["target"]),
            pipeline=int(raw["pipeline"]),
            tensor=int(raw["tensor"]),
            batch=int(raw["batch"]),
            need=Need(
                bundles=tuple({str(k): float(v) for k, v in b.items()} for b in raw["bundles"]),
                memory_bytes=sum(
                    int(s[f]) for s in shards
                    for f in ("weight_bytes", "activation_bytes", "buffer_bytes")
                ),
                placement=raw["placement"],
            ),
        )  # fmt: skip
        model, layout, built = str(raw["model"]), raw["layout"], raw["built"]
    except OSError as error:
        raise ConfigError(f"--plan {path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--plan {path}: not what `headrace plan --json` prints ({type(error).__name__}: "
            f"{error}); write it anew"
        ) from None
    if plan.need.placement not in get_args(Placement) or not plan.need.shards or plan.batch < 1:
        raise ConfigError(f"--plan {path}: not what `headrace plan --json` prints; write it anew")
    manifest = artifact.manifest
    own = f"headrace plan {manifest.name} --json > {path}"
    if model != manifest.name:
        raise ConfigError(f"--plan {path}: is of {model}, not of {manifest.name}; `{own}`")
    if not built:
        raise ConfigError(
            f"--plan {path}: its cut is not built; add `parallel: [{{pipeline: {plan.pipeline}, "
            f"tensor: {plan.tensor}}}]` to the recipe, build it and plan again"
        )
    if layout is not None and layout not in [each.key for each in manifest.layouts]:
        has = ", ".join(each.key for each in manifest.layouts) or "none"
        raise ConfigError(
            f"--plan {path}: is of another build of {model}: it has the cut {layout}, the artifact "
            f"{str(artifact.id)[:12]} has {has}; `{own}`"
        )
    return plan


def rendered(objects: list[Object], asked: Asked) -> list[Object]:
    """The objects of an overlay for one model.

    They are such as KubeRay takes. PlanError if no group can hold it; ConfigError for what is no
    image, or an overlay that does not say what is needed.
    """
    if _IMAGE.fullmatch(asked.image) is None:
        raise ConfigError(
            f"--image {asked.image!r}: no image is named so; give NAME@sha256:..., as the push "
            "printed it, or NAME:TAG"
        )
    made = [copy.deepcopy(each) for each in objects if structure.name(each) not in _BUILD_ONLY]
    services = [each for each in made if each["kind"] == "RayService"]
    if len(services) != 1:
        raise ConfigError(f"the overlay has {len(services)} RayServices; exactly one is needed")
    spec = services[0]["spec"]
    config = spec["rayClusterConfig"]
    group, target = _group(config.get("workerGroupSpecs") or [], asked)
    fitted = fit(group, _need(asked, target), target)
    config["workerGroupSpecs"] = [fitted.group]
    spec["serveConfigV2"] = yaml.safe_dump(_serve_config(asked, fitted, target), sort_keys=False)
    for each in (config["headGroupSpec"], fitted.group):
        pod = each["template"]["spec"]
        pod["containers"][0]["image"] = asked.image
        if asked.plan is not None and asked.plan.cut:
            variables = pod["containers"][0].setdefault("env", [])
            variables.append({"name": DEVICES_VARIABLE, "value": fitted.devices})
        if asked.store is not None:
            pod["volumes"] = [_without_claim(volume) for volume in pod.get("volumes") or []]
    if asked.store is not None:
        for each in made:
            if structure.name(each) == f"ConfigMap/{STORE}":
                each["data"]["HEADRACE_STORE"] = asked.store
    return [each for each in made if _disrupted(each, fitted)]


def _disrupted(obj: Object, fitted: Fitted) -> bool:
    """Make a PodDisruptionBudget leave all replicas but one; False if there is but one."""
    if obj["kind"] != "PodDisruptionBudget":
        return True
    obj["spec"]["minAvailable"] = (fitted.replicas - 1) * fitted.pods
    return fitted.replicas > 1


def _group(groups: list[Object], asked: Asked) -> tuple[Object, str]:
    """The first group with devices that the artifact has programs for, or the plan asks for."""
    manifest = asked.artifact.manifest
    targets = list(dict.fromkeys(entry.target for entry in manifest.programs))
    wanted = [asked.plan.target] if asked.plan is not None else targets
    found = []
    for group in groups:
        labels = (group["template"].get("metadata") or {}).get("labels") or {}
        target = labels.get(TARGET_LABEL)
        found.append(f"{group['groupName']} ({target})")
        if target in wanted:
            return group, str(target)
    raise PlanError(
        f"{manifest.name} has programs for {', '.join(wanted) or 'no target'}, the overlay's "
        f"groups are {', '.join(found) or 'none'}; take another overlay, or build the artifact "
        "for their target"
    )


def _need(asked: Asked, target: str) -> Need:
    if asked.plan is not None:
        return asked.plan.need
    measured = asked.artifact.manifest.measured
    sizes = [each.size_bytes for key, each in measured.items() if key.startswith(target)]
    return Need(bundles_of(target, 1, 1), max(sizes, default=0), "PACK")


def _serve_config(asked: Asked, fitted: Fitted, target: str) -> Object:
    """The catalog and the model."""
    args: Object = {"name": asked.name, "artifact": asked.artifact.id}
    if asked.plan is not None:
        args["batching"] = {"max_batch_size": asked.plan.batch}
        if asked.plan.cut:
            args["parallel"] = {
                "pipeline": asked.plan.pipeline,
                "tensor": asked.plan.tensor,
                "placement": asked.plan.need.placement,
            }
    if fitted.most_replicas > fitted.replicas:
        args["autoscaling"] = {
            "min_replicas": fitted.replicas,
            "max_replicas": fitted.most_replicas,
        }
    else:
        args["replicas"] = fitted.replicas
    model: Object = {
        "name": asked.name,
        "route_prefix": serve_config.ROUTE + asked.name,
        "import_path": serve_config.MODEL,
        "args": args,
    }
    if target.startswith("cuda-") and "parallel" not in args:
        model["deployments"] = [
            {
                "name": MODEL_DEPLOYMENT_PREFIX + asked.name,
                "ray_actor_options": {"num_cpus": 1, "num_gpus": 1},
            }
        ]
    catalog = {
        "name": "server",
        "route_prefix": serve_config.CATALOG_ROUTE,
        "import_path": serve_config.CATALOG,
    }
    return {"applications": [catalog, model]}


def _without_claim(volume: Object) -> Object:
    if volume["name"] != _ARTIFACTS:
        return volume
    return {"name": _ARTIFACTS, "emptyDir": {}}
