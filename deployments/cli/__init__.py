"""The ``headrace`` command: thin, one module per group of subcommands.

main.py      arguments, exit statuses        compress.py  submit the job, follow its log
up_down.py   the local cluster               inspect.py   print an artifact
demo.py      train, compress, serve, ask     demo_client.py  the demo's HTTP side
"""
