"""A model over several devices: the shards of one replica, as Ray actors.

    program.py   all of it as one program; what a replica runs
    members.py   actors in a placement group → loaded → members
    pipeline.py  members → connected: micro-batches in, answers out
    watch.py     whether each of them still serves and gives a sign of life
    moves.py     away from a node that drains, and back when there is room again
    actor.py     the process of one shard
    nodes.py     what the head says of nodes and placement groups

A lost shard is the loss of the replica: Serve starts another one, with all its shards. A shard
whose node is going to stop moves before it does, because Serve would move the replica's own process
alone.
"""
