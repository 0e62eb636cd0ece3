"""Cutting one model over several devices.

    module → graph.py     its operators, what crosses between them, where it may be cut
           → costs.py     what each operator costs, measured
           → balance.py   which cuts leave every stage with as much to do
           → pipeline.py  one module per stage
    module → tensor.py    one module per tensor rank, with an all-reduce where slices meet
             families.py  which layers of known transformers   slices.py  one rank's share of one
    manifest, devices → plan.py → ShardPlan
             devices.py   as an operator writes them   estimate.py  what a stage takes
             link.py      what it takes to send

A plan needs the manifest alone; all else is of the compression job and needs PyTorch.
"""
