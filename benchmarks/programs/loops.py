"""Loops beside the loaded program: OpenVINO's own, and eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.artifacts.program import COMPUTE_THREADS
from benchmarks.harness.errors import BenchmarkError
from cluster.artifact.artifact import Artifact
from cluster.program import node

Loop = Callable[[], object]
"""Run one batch."""


def openvino_loop(artifact: Artifact, images: np.ndarray) -> Loop:
    """Return the loop of ``benchmark_app -hint latency -nthreads 1 -api sync -shape [N,…]``.

    It has static shapes and one infer request whose input is set once, so nothing is copied.
    """
    if node.installed_version("openvino") is None:
        raise BenchmarkError("openvino is not installed: .uv/bin/uv pip install -e '.[openvino]'")
    import openvino

    entry = next((e for e in artifact.manifest.programs if e.kind == "openvino"), None)
    if entry is None:
        raise BenchmarkError(f"artifact {artifact.id} has no OpenVINO program; build it again")
    core = openvino.Core()
    model = core.read_model(artifact.file(entry.file), artifact.file(entry.other_files[0]))
    model.reshape(list(images.shape))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": COMPUTE_THREADS,
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
    infer: Loop = request.infer
    return infer


def eager_loop(images: np.ndarray) -> Loop:
    """Return the loop of the float32 model in eager PyTorch."""
    from benchmarks.artifacts.eager import EagerResNet18  # imports PyTorch

    model = EagerResNet18()
    return lambda: model.run(images)
