"""Addresses of the models' replicas: the target groups that Serve's controller makes for HAProxy.

    controller → target groups, a few times per second → route prefix → replicas → model_client

So a router notices without a request that a model is missing, restarts or has more replicas.
While Serve rebuilds an application, which takes some seconds, it lists none of its replicas,
though they run. The router keeps calling the known ones, until one refuses the connection.
Without HAProxy the targets are Serve's proxies, which forward to the replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Iterable, Mapping

import ray
from ray.exceptions import RayError
from ray.serve.schema import TargetGroup

from cluster.routing.replicas import Replica
from deployments.ray.controller import TargetGroups

logger = logging.getLogger("ray.serve")

LOCALHOST = "127.0.0.1"

UNLISTED_GRACE_S = 30.0
"""Time that unlisted replicas are still called, as long as they accept connections, in seconds."""

POLL_S = 0.2
"""Interval between two reads of the target groups, in seconds.

A replica that stopped between two reads costs a request one attempt. A replica that is stopping
accepts requests for longer than that."""


class Replicas:
    """Table of the models' replicas, by route prefix; a replica that stays keeps its statistics."""

    def __init__(self) -> None:
        self._by_prefix: dict[str, dict[str, Replica]] = {}
        self._unlisted_since: dict[str, float] = {}
        """Time of the first update without replicas, by route prefix."""
        self._changes = asyncio.Event()
        self._first_update = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.generation = 0
        """Number that grows whenever a replica is added or removed."""

    def start(self) -> None:
        """Start to follow Serve's controller, in the running loop."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._follow())

    def require_following(self) -> None:
        """Raise the error that ended the updates, if any: the table would be stale."""
        if self._task is not None and self._task.done():
            self._task.result()

    def of(self, route_prefix: str) -> list[Replica]:
        """Return the replicas behind that prefix; none before the first update."""
        return list(self._by_prefix.get(route_prefix, {}).values())

    async def changed(self, timeout_s: float) -> bool:
        """Wait until a replica is added or removed; return False after the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changes.wait()
                return True
        return False

    async def known(self, timeout_s: float) -> bool:
        """Wait for the first update from Serve; return False after the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._first_update.wait()
        return self._first_update.is_set()

    def update(self, addresses: Mapping[str, Collection[str]], now: float) -> None:
        """Update the table. ``addresses``: those that Serve lists, by route prefix."""
        before = self._addresses()
        listed = {prefix: members for prefix, members in addresses.items() if members}
        for prefix in self._by_prefix.keys() - listed.keys():
            if now - self._unlisted_since.setdefault(prefix, now) > UNLISTED_GRACE_S:
                del self._by_prefix[prefix]
        for prefix, members in listed.items():
            self._unlisted_since.pop(prefix, None)
            known = self._by_prefix.get(prefix, {})
            self._by_prefix[prefix] = {
                address: known.get(address) or _replica(address) for address in members
            }
        self._first_update.set()
        if before != self._addresses():
            self._changed()

    def mark_unreachable(self, route_prefix: str, address: str) -> None:
        """Remove a replica that refused a connection, unless Serve still lists it."""
        if route_prefix in self._unlisted_since:
            self._by_prefix.get(route_prefix, {}).pop(address, None)
            self._changed()

    def _addresses(self) -> dict[str, set[str]]:
        return {prefix: set(replicas) for prefix, replicas in self._by_prefix.items()}

    def _changed(self) -> None:
        self.generation += 1
        self._changes.set()
        self._changes = asyncio.Event()

    async def _follow(self) -> None:
        node_ip: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        controller = TargetGroups()
        while True:
            try:
                groups = await controller.read()
                self.update(_addresses(groups, node_ip), time.monotonic())
            except (RayError, ValueError) as error:
                # The controller restarts. Replicas go on meanwhile, so the table stays in use.
                logger.warning("Serve's controller reports no replica addresses: %s", error)
            await asyncio.sleep(POLL_S)


def _replica(address: str) -> Replica:
    return Replica(address, near=address.startswith(f"{LOCALHOST}:"))


def _addresses(groups: Iterable[TargetGroup], node_ip: str) -> dict[str, list[str]]:
    """Return the addresses by route prefix; on this node as loopback, like HAProxy."""
    addresses: dict[str, list[str]] = {}
    for group in groups:
        if group.protocol == "HTTP":
            targets = [
                f"{LOCALHOST if target.ip == node_ip else target.ip}:{target.port}"
                for target in group.targets
            ]
            addresses.setdefault(group.route_prefix, []).extend(targets)
    return addresses
