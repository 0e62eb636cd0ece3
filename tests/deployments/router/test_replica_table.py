"""What a router knows of the models' replicas, as Serve names them or does not."""

from __future__ import annotations

import asyncio

from deployments.router.replica_table import UNNAMED_S, Replicas

A, B = "/v2/models/a", "/v2/models/b"


def named(replicas: Replicas, prefix: str) -> list[str]:
    return [replica.address for replica in replicas.of(prefix)]


def test_what_is_known_of_a_replica_that_stays_is_kept() -> None:
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
        assert named(replicas, A) == ["x:1", "x:4"]
        assert replicas.of(A)[0] is first

    asyncio.run(scenario())


def test_replicas_that_are_not_named_for_a_while_are_asked_on() -> None:
    async def scenario() -> None:
        replicas = Replicas()
        replicas.update({A: ["x:1", "x:2"], B: ["x:3"]}, 0)
        replicas.update({A: []}, 1)  # as Serve does while it builds an application anew
        assert (named(replicas, A), named(replicas, B)) == (["x:1", "x:2"], ["x:3"])
        replicas.lost(A, "x:1")
        assert named(replicas, A) == ["x:2"]
        replicas.update({A: ["x:4"], B: ["x:3"]}, 2)
        assert named(replicas, A) == ["x:4"]
        replicas.lost(A, "x:4")  # Serve says that it is there: it may be so again
        assert named(replicas, A) == ["x:4"]
        replicas.update({A: ["x:4"]}, 3)
        replicas.update({A: ["x:4"]}, 3.5 + UNNAMED_S)
        assert named(replicas, B) == []

    asyncio.run(scenario())


def test_who_waits_for_a_replica_hears_of_it() -> None:
    async def scenario() -> None:
        replicas = Replicas()
        assert not await replicas.changed(0.01)
        waiting = asyncio.create_task(replicas.changed(5))
        await asyncio.sleep(0)
        replicas.update({A: ["x:1"]}, 0)
        assert await waiting
        assert await replicas.known(0)

    asyncio.run(scenario())
