"""Everything that needs Ray: the applications operators deploy, the compression job's entry
point, the local cluster and the command line.

    app.py       builders for `import_path:` in a Serve config: the composition root
    config/      a Serve config, checked before any cluster starts
    model/       one replica of a model              shards/  a replica over several devices
    router/      routes over models, nodes/ a file for each kind of route
    http/        between HAProxy and an application: guard, keys, headers, bodies, errors
    ray/         all that is private to Ray and Serve, and HAProxy's configuration
    jobs/        the compression job, calibration    drain/   a node, before it stops
    local/       a cluster on this machine           kubernetes/  manifests for KubeRay
    cli/         the `headrace` command
"""
