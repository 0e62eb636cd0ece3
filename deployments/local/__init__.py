"""Local cluster: Ray with Serve on this machine only.

    start   check ports → state directory: lock, token (0600), cluster.json → ray start --head
    deploy  serve.yaml → PUT to the dashboard, with the token → every application RUNNING
            → every route known to HAProxy
    stop    serve shutdown → end every process with the cluster's mark
            → check ports → remove run directory, token and cluster.json

    cluster.py      LocalCluster, which uses the other modules
    record.py       files of a cluster: lock, token, cluster.json, run directory
    environment.py  environment variables of the cluster's processes and of its clients
    rest.py         REST API of the dashboard
    processes.py    search for the cluster's processes, and their end
    ports.py        free ports, and holders of busy ones
    permissions.py  files that must be private, stores that must be readable or writable

``cluster.json`` is written before any process starts, and every process of a cluster inherits a
variable with the cluster's id. So the next start or stop finds and removes the remains of a crash.
Other Ray clusters on the machine are not affected.
"""

from deployments.local.cluster import LocalCluster

__all__ = ["LocalCluster"]
