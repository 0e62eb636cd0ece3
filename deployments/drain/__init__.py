"""Take this node out of service before it stops: ``python -P -m deployments.drain`` on it.

    this node drains → Serve starts replicas on other nodes, then sends no requests to those here
                     → replicas on other nodes move their shards away from here
    → no replica and no shard is left, no deployment lacks a replica → exit 0: the node may stop

A pod's ``preStop`` runs it (``k8s/base``), so that Kubernetes may evict a node; an operator runs it
before `ray stop`. It returns a few seconds after ``time_limits.node_drain_s()`` at the latest. Then
the exit status is 1, and the remaining replicas end with the node. A replica stops even if no
other one could be started within ``time_limits.DRAIN_START_S``; the exit status is then 1, too.
Shards on this node of a replica on another node are moved by that replica
(:mod:`deployments.shards`), because Serve knows only the replica's own process.

A drained node accepts no work until Ray is stopped and started on it.

    __main__.py   attempts until one is done or the deadline passes, also while the head is away
    attempt.py    one attempt, in its own process
"""
