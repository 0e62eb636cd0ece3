"""What tests of several rooms share.

wait              conditions, polled until they hold
cluster           a Ray cluster on this machine, for a block
serve_config      Serve configs of models and routers
marks             which tests start a cluster, and how long they may take
golden            real artifacts, built once on a machine
http_client       requests, whole or byte by byte
leftovers         what a fault may leave behind
listening         TCP ports of a cluster
monitoring_files  rules, dashboard and runbooks of k8s/monitoring
"""
