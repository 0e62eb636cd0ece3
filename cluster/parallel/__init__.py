"""Cutting one model over several devices.

    module → graph.py     its operators, what crosses between them, where it may be cut
           → costs.py     what each operator costs, measured
           → balance.py   which cuts leave every stage with as much to do
           → pipeline.py  one module per stage
    module → tensor.py    one module per tensor rank, with an all-reduce where slices meet
    manifest, devices → plan.py → ShardPlan

The first four are of the compression job and need PyTorch; a plan needs the manifest alone.
"""
