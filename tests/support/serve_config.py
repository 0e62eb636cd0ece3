"""Serve configs of models and routers, as a user writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

Application = dict[str, Any]


def model(name: str, artifact: str, store: Path | str | None = None, **args: Any) -> Application:
    """Return the application of one model; ``store``: the default one if None."""
    model_args = {"name": name, "artifact": artifact, **args}
    if store is not None:
        model_args["store"] = str(store)
    return {
        "name": name,
        "route_prefix": f"/v2/models/{name}",
        "import_path": "deployments.app:model",
        "args": model_args,
    }


def router(routes: Sequence[dict[str, Any]], **args: Any) -> Application:
    """Return the application of a router with these routes."""
    return {
        "name": "router",
        "route_prefix": "/",
        "import_path": "deployments.app:router",
        "args": {"routes": list(routes), **args},
    }


def write(directory: Path, *applications: Application, **fields: Any) -> Path:
    """Write ``serve.yaml`` into a directory; return its path. ``fields``: of the whole config."""
    path = directory / "serve.yaml"
    config = {**fields, "applications": list(applications)}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
