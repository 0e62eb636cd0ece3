"""Headrace beside its peers and the in-process limit, one server at a time.

python -m benchmarks.serving

    resnet18 artifact ─→ in-process limit, reference answers
                      └→ each contender: start → ready → verify → warm up → load → footprint → stop

contenders.py    table of the servers        turns.py   one contender, measured once
in_process.py    the limit                   table.py   speed and footprint as Markdown
"""
