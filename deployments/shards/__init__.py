"""A model over several devices: the shards of one replica, as Ray actors.

    program.py    the shards as one program, which a replica runs
    placement.py  plan → layout and bundles of a replica
    members.py    actors in a placement group → loaded → members
    pipeline.py   members → connected: micro-batches in, answers out
    watch.py      heartbeats of the shards
    moves.py      moves away from a draining node, and back
    actor.py      the process of one shard
    vacancy.py    the bundle of a pending replica that no node has room for

If a shard is lost, the whole replica ends, and Serve starts another one with all its shards. A
shard moves before its node stops, because Serve would move only the replica's own process.
"""
