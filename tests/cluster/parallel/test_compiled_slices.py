"""Compiled slices, in processes that sum through shared memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._inductor import aoti_compile_and_package

from cluster.compression.export import exported
from cluster.compression.programs import native_runner
from cluster.compression.quantization import linear
from cluster.compression.quantization.half_precision import LowPrecision
from cluster.errors import ProgramError
from cluster.parallel.tensor import plan_for, shard_module
from cluster.program import aoti, collective
from cluster.tensors import BATCH, TensorSpec

pytestmark = pytest.mark.slow  # compiles two programs for each test

WIDTH = 64
INPUTS = (TensorSpec(name="x", datatype="FP32", shape=(BATCH, 10, WIDTH)),)

RANK = """
import json, sys
from pathlib import Path
import numpy as np
from cluster.program import aoti

package, extension, rank, inputs = sys.argv[1:]
extension = Path(extension)
if rank == "0":
    group = aoti.create_group(extension, 2)
    print(group.address, flush=True)
else:
    group = aoti.open_group(extension, sys.stdin.readline().strip(), int(rank))
compute = aoti._native(Path(package), extension, 1, group)
outputs = [compute([array])[0].tobytes().hex() for array in np.load(inputs).values()]
print(json.dumps([outputs, "torch" in sys.modules]))
"""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 128), nn.GELU(), nn.Dropout(), nn.Linear(128, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return (x + self.mlp(x)).mean(1)


SCHEMES = {
    "float32": lambda module: module,
    "bf16": lambda module: LowPrecision(module, torch.bfloat16),
    "dynamic_int8": lambda module: linear.dynamic_int8(module, (), (), None, None).module,
    "weight_only_int8": lambda module: linear.weight_only_int8(module, (), (), None, None).module,
}


def compiled(folder: Path, scheme: str) -> tuple[nn.Module, list[Path]]:
    """Return a module, and the packages of its two slices."""
    torch.manual_seed(3)
    module = SCHEMES[scheme](Block().eval()).eval()
    packages = []
    for rank in range(2):
        graph = exported(shard_module(module, plan_for(module), rank, 2), INPUTS, strict=False)
        packages.append(folder / f"{scheme}-{rank}.pt2")
        with torch.no_grad():
            aoti_compile_and_package(
                graph, package_path=str(packages[-1]), inductor_configs={"freezing": True}
            )
    return module, packages


def in_processes(packages: list[Path], extension: Path, inputs: Path) -> list[Any]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *map(str, (package, extension, rank, inputs))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, package in enumerate(packages)
    ]
    address = processes[0].stdout.readline()
    processes[1].stdin.write(address)
    processes[1].stdin.flush()
    return [json.loads(process.communicate(timeout=60)[0]) for process in processes]


def in_threads(computes: list) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return a function of one array that runs every rank in a thread and returns their answers."""

    def run(array: np.ndarray) -> list[np.ndarray]:
        results: list = [None] * len(computes)

        def one(rank: int) -> None:
            results[rank] = computes[rank]([array])[0]

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(computes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return run


@pytest.mark.parametrize(
    ("scheme", "bound"),
    [("float32", 1e-5), ("bf16", 0.03), ("dynamic_int8", 0.03), ("weight_only_int8", 0.03)],
)
def test_compiled_slices_match_module_without_torch_import(
    tmp_path: Path, scheme: str, bound: float
) -> None:
    module, packages = compiled(tmp_path, scheme)
    arrays = [torch.randn(batch, 10, WIDTH).numpy() for batch in (1, 7)]
    np.savez(tmp_path / "inputs.npz", *arrays)
    ranks = in_processes(packages, native_runner.build(), tmp_path / "inputs.npz")
    (first, imported), (second, _) = ranks
    assert not imported
    assert first == second
    for array, output in zip(arrays, first, strict=True):
        with torch.no_grad():
            expected = module(torch.from_numpy(array)).numpy()
        result = np.frombuffer(bytes.fromhex(output), np.float32).reshape(expected.shape)
        assert np.abs(result - expected).max() < bound * np.abs(expected).max()


def test_both_loaders_sum_over_every_matching_group(
    tmp_path: Path,
) -> None:
    module, packages = compiled(tmp_path, "float32")
    extension = native_runner.build()
    array = torch.randn(7, 10, WIDTH).numpy()
    with torch.no_grad():
        expected = module(torch.from_numpy(array)).numpy()

    def native(groups: Sequence[Any]) -> list:
        return [aoti._native(p, extension, 1, g) for p, g in zip(packages, groups, strict=True)]

    def by_pytorch(groups: Sequence[Any]) -> list:
        pairs = zip(packages, groups, strict=True)
        return [aoti._by_pytorch(package, 1, "cpu-x86", group) for package, group in pairs]

    shared = aoti.create_group(extension, 2)
    second_rank = aoti.open_group(extension, shared.address, 1)
    for computes in (
        native(collective.thread_groups(2, timeout_s=20)),
        by_pytorch(collective.thread_groups(2, timeout_s=20)),
        native([shared, second_rank]),
    ):
        first, second = in_threads(computes)(array)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, expected, atol=1e-5)
    with pytest.raises(ProgramError, match="PyTorch's loader runs this program"):
        by_pytorch([shared, second_rank])
    with pytest.raises((ProgramError, RuntimeError), match="one slice of a model"):
        native([None, None])[0]([array])
