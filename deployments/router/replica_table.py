"""Where the replicas of the models are, as Serve tells its own HAProxy.

    controller → target groups, a few times per second → route prefix → replicas → models.py

So a router knows without asking a model that it is missing, restarting, or has more replicas.
While an application is built anew, which takes Serve some seconds, it names none of its replicas,
though they run: those known before are asked on, until one of them does not answer the door.
Without HAProxy the targets are Serve's proxies, which lead to the replicas in turn.
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

UNNAMED_S = 30.0
"""How long replicas are asked on that Serve does not name any more, as long as they answer."""

POLL_S = 0.2
"""How old the picture may be. A replica that has gone meanwhile costs a request one attempt; one
that stops answers for longer than that."""


class Replicas:
    """The replicas of all models, by the prefix of their routes; what is known of one that stays
    is kept."""

    def __init__(self) -> None:
        self._by_prefix: dict[str, dict[str, Replica]] = {}
        self._unnamed_since: dict[str, float] = {}
        """When Serve last named replicas of a prefix for which it names none now."""
        self._news = asyncio.Event()
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.generation = 0
        """Another number whenever a replica has come or gone."""

    def start(self) -> None:
        """Begin to follow Serve's controller, in the running loop."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._follow())

    def require_following(self) -> None:
        """Raise what ended the following, if anything has: the picture would stay as it is."""
        if self._task is not None and self._task.done():
            self._task.result()

    def of(self, route_prefix: str) -> list[Replica]:
        """The replicas behind that prefix; none where there are none, or nothing was heard yet."""
        return list(self._by_prefix.get(route_prefix, {}).values())

    async def changed(self, timeout_s: float) -> bool:
        """Wait until replicas have come or gone; False if none has within that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
                return True
        return False

    async def known(self, timeout_s: float) -> bool:
        """Wait until Serve was heard for the first time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._told.wait()
        return self._told.is_set()

    def update(self, addresses: Mapping[str, Collection[str]], now: float) -> None:
        """Route prefix → the addresses that Serve names at that moment."""
        before = self._addresses()
        named = {prefix: found for prefix, found in addresses.items() if found}
        for prefix in self._by_prefix.keys() - named.keys():
            if now - self._unnamed_since.setdefault(prefix, now) > UNNAMED_S:
                del self._by_prefix[prefix]
        for prefix, found in named.items():
            self._unnamed_since.pop(prefix, None)
            known = self._by_prefix.get(prefix, {})
            self._by_prefix[prefix] = {each: known.get(each) or _replica(each) for each in found}
        self._told.set()
        if before != self._addresses():
            self._changed()

    def lost(self, route_prefix: str, address: str) -> None:
        """A replica does not answer the door. One that Serve still names is asked again."""
        if route_prefix in self._unnamed_since:
            self._by_prefix.get(route_prefix, {}).pop(address, None)
            self._changed()

    def _addresses(self) -> dict[str, set[str]]:
        return {prefix: set(replicas) for prefix, replicas in self._by_prefix.items()}

    def _changed(self) -> None:
        self.generation += 1
        self._news.set()
        self._news = asyncio.Event()

    async def _follow(self) -> None:
        own_ip: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        controller = TargetGroups()
        while True:
            try:
                groups = await controller.read()
                self.update(_addresses(groups, own_ip), time.monotonic())
            except (RayError, ValueError) as error:
                # The controller restarts; the replicas answer on, and so does the last picture.
                logger.warning("Serve's controller does not say where replicas are: %s", error)
            await asyncio.sleep(POLL_S)


def _replica(address: str) -> Replica:
    return Replica(address, near=address.startswith(f"{LOCALHOST}:"))


def _addresses(groups: Iterable[TargetGroup], own_ip: str) -> dict[str, list[str]]:
    """By route prefix. On this node by the address that is always bound, as HAProxy does it."""
    found: dict[str, list[str]] = {}
    for group in groups:
        if group.protocol == "HTTP":
            targets = [
                f"{LOCALHOST if target.ip == own_ip else target.ip}:{target.port}"
                for target in group.targets
            ]
            found.setdefault(group.route_prefix, []).extend(targets)
    return found
