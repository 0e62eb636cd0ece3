"""Check of an application's route prefix, while Serve builds the application.

`serve deploy` → Serve's details → the config of the application with this builder and name
    → its route_prefix is the one that clients, routers and API keys rely on, or ConfigError

``headrace up`` checks the whole file before it deploys; a plain ``serve deploy`` runs only this
check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.errors import ConfigError
from deployments.config.serve_config import builder_of


def require_route_prefix(
    details: Mapping[str, Any] | None, builder: str, name: str | None, expected: str
) -> None:
    """Check the route prefix of the applications with this builder and name.

    ``details``: Serve's details; None without a cluster. ``name``: ``args.name``; None for a
    builder without names. Raises ConfigError with the given and the expected prefix.
    """
    for application, entry in (details or {"applications": {}})["applications"].items():
        config = entry.get("deployed_app_config") or {}
        if builder_of(config.get("import_path")) != builder:
            continue
        if name is not None and (config.get("args") or {}).get("name") != name:
            continue
        prefix = config.get("route_prefix", "/")
        if prefix not in (expected, None):
            raise ConfigError(
                f"application {application}: route_prefix is {prefix!r}, expected {expected!r}"
                f"{f' for a model named {name}' if name else ''}; change it, or args.name"
            )
