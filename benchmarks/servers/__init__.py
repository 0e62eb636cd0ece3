"""Peers of the serving benchmark, each written as its documentation shows, around one program.

python -m benchmarks.servers.MODULE PORT WEIGHTS

A request's body is the float32 of one image ``[3, 224, 224]``, an answer the float32 logits
``[1000]``.
"""
