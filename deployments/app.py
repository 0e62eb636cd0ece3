"""Builders for `import_path:` in a Serve config: the one place where applications are composed.

applications:
- {name: server, route_prefix: /v2, import_path: deployments.app:catalog}
- name: digits
  route_prefix: /v2/models/digits
  import_path: deployments.app:model
  args: {name: digits, artifact: digits-int8}        → ModelArgs
- name: router                                       (instead of the catalog)
  route_prefix: /
  import_path: deployments.app:router
  args: {routes: [{name: both, kind: ensemble, targets: [digits, others]}]}   → RouterArgs

Each of them also reads the API keys: if it cannot, Serve's status says why, and not just that no
replica opens.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from cluster.artifact.lookup import absolute
from cluster.artifact.served import bind
from cluster.artifact.store import default_store
from deployments.config import serve_config
from deployments.config.deployed import deployed_models
from deployments.config.route_prefix import require_route_prefix
from deployments.http import keys
from deployments.http.catalog import Catalog
from deployments.model.health import PROBE_TIMEOUT_S
from deployments.model.replica import ModelReplica
from deployments.ray.controller import serve_details
from deployments.ray.names import (
    ARGS,
    ARTIFACT,
    CATALOG_DEPLOYMENT,
    MODEL_DEPLOYMENT_PREFIX,
    MODELS_PATH,
    ROUTER_DEPLOYMENT,
    STORE,
)
from deployments.ray.time_limits import replica_stop_s
from deployments.router.plan import plan_routes
from deployments.router.replica import RouterReplica
from deployments.shards import placement


def model(args: dict[str, Any]) -> Application:
    """Build one model behind ``/v2/models/NAME``; ``args`` are those of ``ModelArgs``.

    ConfigError names the field, its value and the allowed ones. PlanError for a cut that the
    artifact lacks or the cluster has no devices for, ArtifactError for an artifact that is
    missing or, with ``require_signature``, not signed.
    """
    has_keys = keys.configured() is not None
    checked = serve_config.model_args(args, "args")
    prefix = MODELS_PATH + checked.name
    require_route_prefix(serve_details(), serve_config.MODEL, checked.name, prefix)
    bound = bind(checked)  # the one place that resolves the artifact's name
    scale: dict[str, Any] = (
        {"num_replicas": checked.replicas}
        if checked.autoscaling is None
        else {"autoscaling_config": checked.autoscaling}
    )
    shards = placement.place(bound)
    if shards is None:
        scale["ray_actor_options"] = {
            "num_cpus": checked.compute_threads,
            "label_selector": placement.nodes_for(bound),
        }
    else:  # one placement group per replica: all its shards at once, or none
        scale["ray_actor_options"] = {"num_cpus": 0}  # it only feeds them
        scale["placement_group_bundles"] = shards.bundles
        scale["placement_group_bundle_label_selector"] = [placement.nodes_for(bound)] * len(
            shards.bundles
        )
        scale["placement_group_strategy"] = shards.strategy
    deployment = serve.deployment(
        name=MODEL_DEPLOYMENT_PREFIX + checked.name,
        max_ongoing_requests=checked.ongoing_requests,
        max_queued_requests=checked.max_queued_requests,
        health_check_period_s=1,  # also how soon a dead replica is noticed
        health_check_timeout_s=PROBE_TIMEOUT_S + 2,  # one that froze is replaced after three
        graceful_shutdown_timeout_s=replica_stop_s(),
        user_config={
            ARTIFACT: bound.reference,
            STORE: absolute(checked.store or default_store()),
            ARGS: checked.model_dump(mode="json"),
        },
        **scale,
    )(serve.ingress()(ModelReplica))
    return deployment.bind(bound, None if shards is None else shards.layout, has_keys)


def catalog(args: dict[str, Any]) -> Application:
    """Build the server's own paths, behind ``/v2``; ``args`` are those of ``CatalogArgs``.

    ConfigError names the field, its value and the allowed ones.
    """
    has_keys = keys.configured() is not None
    checked = serve_config.catalog_args(args, "args")
    prefix = serve_config.CATALOG_ROUTE
    require_route_prefix(serve_details(), serve_config.CATALOG, None, prefix)
    deployment = serve.deployment(
        name=CATALOG_DEPLOYMENT,
        ray_actor_options={"num_cpus": 0, **placement.OFF_HEAD},
        max_ongoing_requests=100,
        graceful_shutdown_timeout_s=replica_stop_s(),
    )(serve.ingress()(Catalog))
    return deployment.bind(has_keys, checked.cors_origins)


def router(args: dict[str, Any]) -> Application:
    """Build routes over the models of this cluster, and the server's own paths.

    ``args`` are those of ``RouterArgs``. ConfigError names the route and the mismatch.
    """
    has_keys = keys.configured() is not None
    checked = serve_config.router_args(args, "args")
    prefix = serve_config.ROUTER_ROUTE
    require_route_prefix(serve_details(), serve_config.ROUTER, None, prefix)
    routing = plan_routes(checked, deployed_models())
    deployment = serve.deployment(
        name=ROUTER_DEPLOYMENT,
        # It waits for the models, which have their CPUs.
        ray_actor_options={"num_cpus": 0, **placement.OFF_HEAD},
        max_ongoing_requests=checked.max_ongoing_requests,
        health_check_period_s=1,
        graceful_shutdown_timeout_s=replica_stop_s(),
    )(serve.ingress()(RouterReplica))
    return deployment.bind(routing, has_keys)
