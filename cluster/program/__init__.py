"""A program of an artifact, loaded: numpy arrays in, numpy arrays out.

    Artifact → program.load → the entry whose target fits this node (node.py)
                            → PROGRAM_KINDS[entry.kind] → Program.run(arrays) → arrays

    program.py   the table of kinds and the choice     node.py        what this CPU can run
    aoti.py      AOTInductor packages                  runner.cpp     runs them without the GIL

Loading does not import PyTorch's Python package unless the native runner does not fit: that
import costs about 2 s, loading libtorch by itself about 0.5 s.
"""
