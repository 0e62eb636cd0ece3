"""Runtime of a replica besides HTTP: batching of requests, and shards with their transport.

batcher.py        requests → batches, a compute thread per lane   priority_queue.py  their queue
shard_group.py    the replica's side of its shards                shard.py  one shard's loop
topology.py       numbers of the shards' processes
transport.py      frames between processes: gloo.py (wire.py, shared_memory.py, lending.py)
fatal_requests.py requests that end a process, known by their digest (content_digest.py)
process_slots.py  rows of a file that the processes of a node share
lent_bodies.py    request bodies shared between processes of one node
shared_lock.py    writer-preferring lock
"""
