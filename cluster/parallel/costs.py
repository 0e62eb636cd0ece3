"""Cost of every operator of a model, measured on one compute thread.

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
    """Return median milliseconds of each operator by node name, on zeros of ``batch`` items."""
    times_ms: dict[str, list[float]] = defaultdict(list)
    group = collective.thread_groups(1)[0]  # a timed slice sums over itself only
    threads = torch.get_num_threads()
    torch.set_num_threads(compute_threads)
    try:
        with torch.inference_mode(), collective.using(group):
            for repeat in range(_WARM_UP + REPEATS):
                timer = _Timer(graph)
                timer.run(*example(inputs, batch))
                for name, milliseconds in timer.milliseconds.items():
                    if repeat >= _WARM_UP:
                        times_ms[name].append(milliseconds)
    finally:
        torch.set_num_threads(threads)
    return {name: median(times) for name, times in times_ms.items()}


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
