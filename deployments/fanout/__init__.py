"""Carrying out what `cluster.routing` decides: requests to models, many at once.

routes.py    a route's node for each kind, put together from the config
combined.py  cascade.py  pairs.py  sequences.py     the nodes
branches.py  asks several nodes at once, step by step
models.py    a model: its replicas over HTTP, one of them chosen for each request
replicas.py  where Serve says that the replicas are
call.py      what goes down with a request, and what comes back up
"""
