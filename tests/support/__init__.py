"""Code shared by the tests of several rooms.

wait              conditions, polled until they hold
command           the headrace command in a home of its own, and what it leaves
cluster           a Ray cluster on this machine, for a block
serve_config      Serve configs of models and routers
marks             which tests start a cluster, and how long they may take
golden            real artifacts, built once on a machine
http_client       requests, whole or byte by byte
leftovers         orphans that a fault may leave behind
listening         TCP ports of a cluster
load              clients that send requests all the time
local_shards      shards as threads of this process
shared_memory     files in /dev/shm that no process uses
monitoring_files  rules, dashboard and runbooks of k8s/monitoring
"""
