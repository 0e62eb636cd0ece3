"""Application of this process, from Serve's replica context."""

from __future__ import annotations

from deployments.ray.names import CATALOG_DEPLOYMENT, MODEL_DEPLOYMENT_PREFIX, ROUTER_DEPLOYMENT

BUILT_IN = ""
"""Result for an application of Headrace, instead of a name."""


def foreign_application() -> str | None:
    """Return the name of this replica's application if it is a foreign one.

    ``BUILT_IN`` for a model, the router or the catalog. None in a process that is no replica, such
    as the proxy of Serve.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        context = serve.get_replica_context()
    except RayServeException:
        return None
    name = context.deployment
    built_in = name in (ROUTER_DEPLOYMENT, CATALOG_DEPLOYMENT)
    return BUILT_IN if built_in or name.startswith(MODEL_DEPLOYMENT_PREFIX) else context.app_name
