"""Take this node out of service before it stops: ``python -m deployments.drain`` on it.

    this node drains → Serve starts its replicas elsewhere, then sends nothing more to those here
                     → replicas elsewhere move the shards that they have here
    → none is left here, and no deployment lacks one → exit 0: the node may stop

A pod's ``preStop`` runs it (``k8s/base``), so that Kubernetes may evict a node; an operator runs it
before `ray stop`. It returns a few seconds after ``time_limits.node_drain_s()`` at the latest: then
exit 1, and what is still here is lost with the node. A replica for which no other could be started
in ``time_limits.DRAIN_START_S`` stops all the same, and the exit status is 1. Shards here of a
replica whose own process is on another node are moved by that replica
(:mod:`deployments.shards`), since Serve knows only of that process.

A node that was drained takes nothing new until Ray is stopped and started on it.

    __main__.py   tries until it is done or the time is over; survives a head that is away meanwhile
    attempt.py    one attempt, in a process of its own
"""
