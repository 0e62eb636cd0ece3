"""What each operator of a model costs: measured one by one, on one compute thread.

graph, inputs → run operator by operator, each timed → milliseconds by node
"""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from cluster.parallel.graph import example
from cluster.program import collective
from cluster.tensors import TensorSpec

REPEATS = 5
_WARM_UP = 2


def operator_ms(
    graph: GraphModule, inputs: tuple[TensorSpec, ...], batch: int, compute_threads: int
) -> dict[str, float]:
    """Median milliseconds of every operator by its node's name, on zeros of ``batch`` items."""
    taken: dict[str, list[float]] = defaultdict(list)
    alone = collective.thread_groups(1)[0]  # a slice's sums: of itself, while it is timed
    before = torch.get_num_threads()
    torch.set_num_threads(compute_threads)
    try:
        with torch.inference_mode(), collective.using(alone):
            for repeat in range(_WARM_UP + REPEATS):
                timer = _Timer(graph)
                timer.run(*example(inputs, batch))
                for name, milliseconds in timer.milliseconds.items():
                    if repeat >= _WARM_UP:
                        taken[name].append(milliseconds)
    finally:
        torch.set_num_threads(before)
    return {name: median(times) for name, times in taken.items()}


class _Timer(Interpreter):
    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.milliseconds: dict[str, float] = {}

    def run_node(self, n: Node) -> Any:
        started = time.perf_counter()
        value = super().run_node(n)
        if n.op == "call_function":
            self.milliseconds[n.name] = (time.perf_counter() - started) * 1e3
        return value
