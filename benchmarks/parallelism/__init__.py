"""One model over two shards, beside one replica and beside its peers, held against its goals.

__main__.py  case → cases.py (recipe) → artifact in the store, built once
             → rounds: subjects.py, every subject in turn → results.py → table.py

whole, cut   feed.py ─ a driver process ─→ feeder.py, in the replica's place    and HTTP
ray-chain    servers/ray_chain_server.py                                        and HTTP
eager        peers.py ─ two processes ─→ ranks.py: PyTorch's pipelining, Accelerate

pace.py, inputs.py, models.py: how fast, on what, of what
"""
