"""The peers, each written the way its documentation shows, around the same computing code.

python -m benchmarks.servers.MODULE PORT WEIGHTS

A body is the float32 of one image ``[3, 224, 224]``, an answer the float32 logits ``[1000]``.
"""
