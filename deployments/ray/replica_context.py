"""The application that this process answers for, as Serve's replica context names it."""

from __future__ import annotations

from deployments.ray.names import CATALOG_DEPLOYMENT, MODEL_DEPLOYMENT_PREFIX, ROUTER_DEPLOYMENT

OURS = ""
"""In place of an application's name: one of ours."""


def foreign_application() -> str | None:
    """Return the name of the application that this process is a replica of, unless it is ours.

    ``OURS`` for a model, the router and the catalog; None in a process that is no replica, such as
    Serve's own proxy.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        context = serve.get_replica_context()
    except RayServeException:
        return None
    name = context.deployment
    ours = name in (ROUTER_DEPLOYMENT, CATALOG_DEPLOYMENT)
    return OURS if ours or name.startswith(MODEL_DEPLOYMENT_PREFIX) else context.app_name
