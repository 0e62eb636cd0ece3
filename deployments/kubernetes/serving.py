"""``serveConfigV2``: written for one model, and read for the pods that its replicas are on.

artifact, plan, replicas → catalog and model → serveConfigV2 → pods with a replica, at least
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.config.serving import Batching
from deployments.config import serve_config
from deployments.kubernetes.plan_file import Plan
from deployments.ray.names import MODEL_DEPLOYMENT_PREFIX, ROUTER_DEPLOYMENT

Object = dict[str, Any]

CATALOG_DEPLOYMENT = "catalog"
_APART = {"max_replicas_per_node": 1}

REAL_TIME = {"upscale_delay_s": 2, "metrics_interval_s": 1}
"""Of ``autoscaling``: Serve's own (30 s, every 10 s) are for batch work. docs/operations.md."""


@dataclass(frozen=True)
class Served:
    """One model, as its replicas are to be started."""

    name: str
    artifact: str
    target: str
    plan: Plan | None
    require_signature: bool
    replicas: int
    most_replicas: int


def written(model: Served) -> Object:
    """The catalog and the model, each replica on a pod of its own where there are several."""
    catalog: Object = {
        "name": "server",
        "route_prefix": serve_config.CATALOG_ROUTE,
        "import_path": serve_config.CATALOG,
    }
    if model.replicas > 1:  # so that the server's own paths outlive a pod, too
        catalog["deployments"] = [{"name": CATALOG_DEPLOYMENT, "num_replicas": 2, **_APART}]
    application: Object = {
        "name": model.name,
        "route_prefix": serve_config.ROUTE + model.name,
        "import_path": serve_config.MODEL,
        "args": _args(model),
    }
    if model.plan is None or not model.plan.cut:  # Serve takes it for no placement group
        options: Object = {"name": MODEL_DEPLOYMENT_PREFIX + model.name, **_APART}
        if model.target.startswith("cuda-"):
            options["ray_actor_options"] = {"num_cpus": 1, "num_gpus": 1}
        application["deployments"] = [options]
    return {"applications": [catalog, application]}


def _args(model: Served) -> Object:
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
    if model.most_replicas > model.replicas:
        args["autoscaling"] = {
            "min_replicas": model.replicas,
            "max_replicas": model.most_replicas,
            # A full batch; in a pipeline another behind it, half of what a replica holds.
            "target_ongoing_requests": batch if stages == 1 else 2 * batch,
            **REAL_TIME,
        }
    else:
        args["replicas"] = model.replicas
    return args


def pods_with_replicas(config: Object) -> int:
    """How many pods have a replica, of whatever application, at the least.

    ``config``: one that :func:`serve_config.check_content` takes. Replicas count as one pod unless
    something keeps them apart: ``max_replicas_per_node``, or a cut that fills its pods.
    """
    return max((_pods(application) for application in config["applications"]), default=0)


def _pods(application: Object) -> int:
    args = application.get("args") or {}
    replicas, cut = 1, False
    match application["import_path"]:
        case serve_config.MODEL:
            name = MODEL_DEPLOYMENT_PREFIX + args["name"]
            cut = args.get("parallel") is not None
            scaling = args.get("autoscaling")
            replicas = args.get("replicas", 1) if scaling is None else _least(scaling)
        case serve_config.CATALOG:
            name = CATALOG_DEPLOYMENT
        case serve_config.ROUTER:
            name = ROUTER_DEPLOYMENT
        case _:  # not ours: how many it has is its own code's affair
            return 0
    most_on_a_pod = None
    for options in _options(application, name):
        most_on_a_pod = options.get("max_replicas_per_node")
        if options.get("autoscaling_config") is not None:
            replicas = _least(options["autoscaling_config"])
        elif (given := options.get("num_replicas")) is not None:
            replicas = 1 if given == "auto" else given
    if cut:
        return replicas
    return math.ceil(replicas / most_on_a_pod) if most_on_a_pod else min(replicas, 1)


def _least(scaling: Object) -> int:
    return int(scaling.get("min_replicas", 1))


def _options(application: Object, deployment: str) -> Iterator[Object]:
    """What the config says of a deployment beside its application's args."""
    for each in application.get("deployments") or ():
        if each["name"] == deployment:
            yield each
