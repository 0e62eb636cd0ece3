"""Everything that needs Ray: the applications operators deploy, the compression job's entry
point, the local cluster and the command line.

    app.py       builders for `import_path:` in a Serve config: the composition root
    model.py     one replica of a model        endpoints.py  its HTTP paths
    router.py    routes over models            fanout/       a node for each kind of route
    shards/      a replica over several devices, and its moves away from a node that drains
    catalog.py   the server's own paths        request_guard.py  in front of every replica
    haproxy.py   what Serve starts as HAProxy  deadlines.py  how long things may take
    drain/       a node, before it stops
    compress.py  the Ray job                   local/        a cluster on this machine
    cli/         the `headrace` command
"""
