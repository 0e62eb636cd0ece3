"""Table of the models' replicas, while Serve lists them and while it does not."""

from __future__ import annotations

import asyncio

from deployments.router.replica_table import UNLISTED_GRACE_S, Replicas

A, B = "/v2/models/a", "/v2/models/b"


def addresses(replicas: Replicas, prefix: str) -> list[str]:
    return [replica.address for replica in replicas.of(prefix)]


def test_replica_that_stays_keeps_its_statistics() -> None:
    async def scenario() -> None:
        replicas = Replicas()
        assert replicas.of(A) == []
        replicas.update({A: ["x:1", "x:2"], B: ["x:3"]}, 0)
        first = replicas.of(A)[0]
        generation = replicas.generation
        replicas.update({A: ["x:1", "x:2"], B: ["x:3"]}, 1)
        assert replicas.generation == generation
        replicas.update({A: ["x:1", "x:4"], B: ["x:3"]}, 2)
        assert replicas.generation > generation
        assert addresses(replicas, A) == ["x:1", "x:4"]
        assert replicas.of(A)[0] is first

    asyncio.run(scenario())


def test_unlisted_replicas_stay_for_grace_period() -> None:
    async def scenario() -> None:
        replicas = Replicas()
        replicas.update({A: ["x:1", "x:2"], B: ["x:3"]}, 0)
        replicas.update({A: []}, 1)  # Serve does so while it rebuilds an application
        assert (addresses(replicas, A), addresses(replicas, B)) == (["x:1", "x:2"], ["x:3"])
        replicas.mark_unreachable(A, "x:1")
        assert addresses(replicas, A) == ["x:2"]
        replicas.update({A: ["x:4"], B: ["x:3"]}, 2)
        assert addresses(replicas, A) == ["x:4"]
        replicas.mark_unreachable(A, "x:4")  # Serve still lists it, so it stays
        assert addresses(replicas, A) == ["x:4"]
        replicas.update({A: ["x:4"]}, 3)
        replicas.update({A: ["x:4"]}, 3.5 + UNLISTED_GRACE_S)
        assert addresses(replicas, B) == []

    asyncio.run(scenario())


def test_waiter_is_notified_of_new_replica() -> None:
    async def scenario() -> None:
        replicas = Replicas()
        assert not await replicas.changed(0.01)
        waiting = asyncio.create_task(replicas.changed(5))
        await asyncio.sleep(0)
        replicas.update({A: ["x:1"]}, 0)
        assert await waiting
        assert await replicas.known(0)

    asyncio.run(scenario())
