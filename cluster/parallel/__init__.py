"""Cutting one model over several devices.

    module → graph.py     its operators, possible cuts and the tensors that cross them
           → costs.py     the cost of each operator, measured
           → balance.py   the cuts that balance the stages
           → pipeline.py  one module per stage
    module → tensor.py    one module per tensor rank, with an all-reduce where slices meet
             families.py  layers of known transformers   slices.py  one rank's share of a layer
    manifest, devices → plan.py → ShardPlan
             devices.py   an operator's notation   estimate.py  time and memory of a stage
             link.py      cost of a transfer

Only planning needs no PyTorch: it reads the manifest alone. The rest runs in the compression job.
"""
