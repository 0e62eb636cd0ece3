"""Serve's controller: what is deployed, and at which addresses replicas listen.

No public call of Serve tells either: ``serve.status`` has no arguments and no addresses.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.context import _get_global_client
from ray.serve.schema import TargetGroup


def serve_details() -> dict[str, Any] | None:
    """Return Serve's details, as ``GET /api/serve/applications/`` has them; None without Serve."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.get_serve_details()


class TargetGroups:
    """The addresses of replicas, by application, as Serve's controller gives them to HAProxy."""

    def __init__(self) -> None:
        self._controller: Any = None

    async def read(self) -> list[TargetGroup]:
        """Ask the controller. RayError or ValueError while it restarts; ask again then."""
        try:
            if self._controller is None:
                self._controller = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
            groups: list[TargetGroup] = await self._controller.get_target_groups.remote(
                from_proxy_manager=True
            )
        except BaseException:
            self._controller = None
            raise
        return groups
