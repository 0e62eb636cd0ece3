"""Benchmarks of Headrace, each a command: python -m benchmarks.NAME.

serving       Headrace beside its peers and the in-process limit
programs      the loaded program beside OpenVINO's own loop
compression   recipes on real models
parallelism   one model over two shards; parallelism.hop, a stage that computes nothing
router        cost of a route, gain of a cascade and a hedge

Shared by them, from the bottom up:

harness       command line, interleaved rounds, medians, JSON, Markdown
artifacts     recipes → artifacts, their programs and reference answers
servers       peers around the same program
contenders    start, observe and stop a server
load          load generator, check of the answers, time to ready

measured      committed results: JSON, and the tables made of it
"""
