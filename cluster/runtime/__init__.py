"""Runtime of a replica besides HTTP: batching of requests, and shards with their transport.

batcher.py        requests → batches, a compute thread per lane   priority_queue.py  their queue
shard_group.py    the replica's side of its shards                shard.py  one shard's loop
topology.py       numbers of the shards' processes
transport.py      frames between processes: gloo.py (wire.py, shared_memory.py, lending.py)
lent_bodies.py    request bodies shared between processes of one node
shared_lock.py    writer-preferring lock
"""
