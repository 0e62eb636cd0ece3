"""A Ray cluster with Serve on this machine alone: started, deployed to, and stopped whole.

    start   ports free? → state directory: lock, token (0600), cluster.json → ray start --head
    deploy  serve.yaml → PUT to the dashboard, with the token → every application RUNNING
            → every route known to HAProxy
    stop    serve shutdown → end every process that carries the cluster's mark
            → ports free? → run directory, token and cluster.json removed

    cluster.py      LocalCluster, which joins the others
    record.py       what is on disk: lock, token file, cluster.json, run directory
    environment.py  every variable the cluster's processes, and its clients, run with
    rest.py         the dashboard's REST API
    processes.py    finding the cluster's processes, and ending them
    ports.py        free ports, and who holds one that is not
    permissions.py  files that must be private, stores that must be readable or writable

``cluster.json`` is written before anything starts, and every process of a cluster inherits a
variable that names it. So what a crash leaves behind, at any moment, the next start or stop
finds and removes; other Ray clusters on the machine are never touched.
"""

from deployments.local.cluster import LocalCluster

__all__ = ["LocalCluster"]
