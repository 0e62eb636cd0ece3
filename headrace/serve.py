"""Builders of Serve applications, for Python and for a Serve config.

    serve.run(headrace.serve.model({"name": "digits", "artifact": "digits-int8"}),
              name="digits", route_prefix="/v2/models/digits")
    import_path: headrace.serve:model

The applications are those of ``deployments.app``: either module may stand in an ``import_path``.
A builder reads what the cluster serves, so it connects to Ray, as ``serve.run`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headrace.packages import require_ours

if TYPE_CHECKING:
    from ray.serve import Application

    from cluster.config.routing import RouterArgs
    from cluster.config.serving import ModelArgs


def model(args: Mapping[str, Any] | ModelArgs) -> Application:
    """Return the application of one model.

    Give ``serve.run`` the route prefix ``/v2/models/NAME`` and a name of the application.
    ConfigError for wrong args, ArtifactError for an artifact that is missing or not signed,
    PlanError for a cut that the artifact lacks or the cluster has no devices for.
    """
    require_ours()
    from deployments import app

    return app.model(_plain(args))


def router(args: Mapping[str, Any] | RouterArgs) -> Application:
    """Return the application of routes over the deployed models, with the server's own paths.

    Give ``serve.run`` the route prefix ``/``. ConfigError, naming the route, for what does not
    fit; ClusterError where no Serve runs, because routes are checked against deployed models.
    """
    require_ours()
    from deployments import app

    return app.router(_plain(args))


def catalog(args: Mapping[str, Any]) -> Application:
    """Return the application of the server's own paths; ``args`` must be empty.

    Give ``serve.run`` the route prefix ``/v2``. A router has these paths, too.
    """
    require_ours()
    from deployments import app

    return app.catalog(dict(args))


def _plain(args: Any) -> dict[str, Any]:
    """Return plain data; ConfigError, as the builders word it, for other values."""
    return args.model_dump(mode="json") if hasattr(args, "model_dump") else args
