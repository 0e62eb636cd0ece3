"""Serve's controller: deployed applications with their arguments, and addresses of replicas.

Serve has no public call for either: ``serve.status`` has no arguments and no addresses.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.context import _get_global_client
from ray.serve.schema import TargetGroup


def serve_details() -> dict[str, Any] | None:
    """Return Serve's details, as ``GET /api/serve/applications/`` does; None without Serve."""
    if not ray.is_initialized():
        return None  # Serve's client would start or join a cluster
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.get_serve_details()


class TargetGroups:
    """Addresses of replicas by application, as Serve's controller sends them to HAProxy."""

    def __init__(self) -> None:
        self._controller: Any = None

    async def read(self) -> list[TargetGroup]:
        """Return the target groups; RayError or ValueError while the controller restarts."""
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
