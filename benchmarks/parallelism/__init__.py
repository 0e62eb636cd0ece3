"""One model over two shards, beside one replica and beside peers, judged by its goals.

python -m benchmarks.parallelism

    case → cases.py: recipe → artifact → rounds of turns.py, subject by subject → fed.py, goals.py

whole, cut   feed.py ─ a driver process ─→ feeder.py, in the replica's place     and HTTP
ray-chain    ray_chain_server.py                                                and HTTP
eager        peers.py ─ two processes ─→ ranks.py: PyTorch's pipelining, Accelerate

pace.py: latency and throughput of calls    inputs.py, models.py: items and modules
hop.py: cost of a stage that computes nothing, python -m benchmarks.parallelism.hop
"""
