"""The ``headrace`` command: a module for each subcommand, with its arguments and its run.

main.py       which subcommand, exit statuses       arguments.py  arguments that several take
replicas.py   `inspect --replicas`                  served.py     artifacts that a cluster serves
job_cluster.py  the cluster of `compress`           demo_client.py  the HTTP side of `demo`
"""
