"""Loaded programs of an artifact: numpy arrays in, numpy arrays out.

    Artifact → program.choose → the fastest entry that this node can run (node.py)
             → PROGRAM_KINDS[entry.kind] → Program.run(arrays) → arrays

    program.py   the table of kinds and the choice     node.py        capabilities of this node
    aoti.py      AOTInductor packages                  runner.cpp     runs them without the GIL
    openvino.py  OpenVINO's graph and weights          exported.py    torch.export's graphs
    eager.py     the model's own Python code           pytorch.py     runs the last two
    loaded.py    a loaded program, inputs checked
    stage.py     one shard's program between two cuts
    collective.py  the sum over tensor ranks    all_reduce.cpp  through shared memory
    stage_ranks.py  all ranks of a stage in one process, for measuring

Loading an `aoti` or `openvino` program does not import PyTorch's Python package, unless the
native runner does not match. That import costs about 2 s, loading libtorch alone about 0.5 s.
"""
