"""``serveConfigV2``: written for one model, and read for the number of pods with a replica.

artifact, plan, replicas → catalog and model → serveConfigV2 → minimum of pods with a replica
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.config.serving import Batching
from deployments.config import serve_config
from deployments.kubernetes.plan_file import Plan
from deployments.ray.names import MODEL_DEPLOYMENT_PREFIX, MODELS_PATH, ROUTER_DEPLOYMENT

Object = dict[str, Any]

CATALOG_DEPLOYMENT = "catalog"
_APART = {"max_replicas_per_node": 1}

REAL_TIME = {"upscale_delay_s": 2, "metrics_interval_s": 1}
"""``autoscaling`` for real-time load. Serve's defaults, 30 s and every 10 s, are for batch work:
docs/operations.md."""


@dataclass(frozen=True)
class ModelSpec:
    """One model and the way its replicas start."""

    name: str
    artifact: str
    target: str
    plan: Plan | None
    require_signature: bool
    replicas: int
    max_replicas: int


def config_of(model: ModelSpec) -> Object:
    """Return a Serve config with the catalog and the model, one replica per pod."""
    catalog: Object = {
        "name": "server",
        "route_prefix": serve_config.CATALOG_ROUTE,
        "import_path": serve_config.CATALOG,
    }
    if model.replicas > 1:  # the catalog's paths survive the loss of a pod
        catalog["deployments"] = [{"name": CATALOG_DEPLOYMENT, "num_replicas": 2, **_APART}]
    application: Object = {
        "name": model.name,
        "route_prefix": MODELS_PATH + model.name,
        "import_path": serve_config.MODEL,
        "args": _args(model),
    }
    if model.plan is None or not model.plan.cut:  # Serve refuses it beside a placement group
        options: Object = {"name": MODEL_DEPLOYMENT_PREFIX + model.name, **_APART}
        if model.target.startswith("cuda-"):
            options["ray_actor_options"] = {"num_cpus": 1, "num_gpus": 1}
        application["deployments"] = [options]
    return {"applications": [catalog, application]}


def _args(model: ModelSpec) -> Object:
    args: Object = {"name": model.name, "artifact": model.artifact}
    if model.require_signature:
        args["require_signature"] = True
    batch, stages = Batching().max_batch_size, 1
    if model.plan is not None:
        batch, stages = model.plan.batch, model.plan.pipeline
        args["batching"] = {"max_batch_size": batch}
        if model.plan.cut:
            args["parallel"] = {
                "pipeline": model.plan.pipeline,
                "tensor": model.plan.tensor,
                "placement": model.plan.placement,
            }
    if model.max_replicas > model.replicas:
        args["autoscaling"] = {
            "min_replicas": model.replicas,
            "max_replicas": model.max_replicas,
            # One full batch; two in a pipeline, which is half of a replica's capacity.
            "target_ongoing_requests": batch if stages == 1 else 2 * batch,
            **REAL_TIME,
        }
    else:
        args["replicas"] = model.replicas
    return args


def pods_with_replicas(config: Object) -> int:
    """Return the minimum number of pods with a replica of any application.

    ``config``: accepted by :func:`serve_config.check_content`. Replicas count as one pod unless
    ``max_replicas_per_node``, or a cut that fills its pods, keeps them apart.
    """
    return max((_pods(application) for application in config["applications"]), default=0)


def _pods(application: Object) -> int:
    args = application.get("args") or {}
    replicas, cut = 1, False
    match serve_config.builder_of(application["import_path"]):
        case serve_config.MODEL:
            name = MODEL_DEPLOYMENT_PREFIX + args["name"]
            cut = args.get("parallel") is not None
            scaling = args.get("autoscaling")
            replicas = args.get("replicas", 1) if scaling is None else _min_replicas(scaling)
        case serve_config.CATALOG:
            name = CATALOG_DEPLOYMENT
        case serve_config.ROUTER:
            name = ROUTER_DEPLOYMENT
        case _:  # a user's application: unknown
            return 0
    max_per_pod = None
    for options in _options(application, name):
        max_per_pod = options.get("max_replicas_per_node")
        if options.get("autoscaling_config") is not None:
            replicas = _min_replicas(options["autoscaling_config"])
        elif (number := options.get("num_replicas")) is not None:
            replicas = 1 if number == "auto" else number
    if cut:
        return replicas
    return math.ceil(replicas / max_per_pod) if max_per_pod else min(replicas, 1)


def _min_replicas(scaling: Object) -> int:
    return int(scaling.get("min_replicas", 1))


def _options(application: Object, deployment: str) -> Iterator[Object]:
    """Yield the options that a config sets for a deployment, beside the application's args."""
    for options in application.get("deployments") or ():
        if options["name"] == deployment:
            yield options
