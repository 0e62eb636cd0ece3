"""Quantized modules compile for every batch size, and compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cluster.compression.export import exported
from cluster.compression.quantization.quantize import quantize
from cluster.compression.work import Work
from cluster.config.steps import Quantize

Bench = Callable[..., Any]

CASES = [
    ("static_int8", ("1",)),
    ("static_int8", ()),
    ("dynamic_int8", ("4",)),
    ("weight_only_int8", ("4",)),
    ("weight_only_int4", ()),
    ("bf16", ()),
    ("fp16", ()),
]


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1152, 64),
        nn.ReLU(),
        nn.Linear(64, 16),
    )


# Half a minute each: the compiler's.
@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "keep"), CASES)
def test_compiled_program_answers_like_module(
    bench: Bench, tmp_path: Path, scheme: str, keep: tuple[str, ...]
) -> None:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    initial = bench(model="linear")
    work = Work.of(convolutions().eval(), initial.work.inputs)
    step = Quantize(kind="quantize", scheme=scheme, keep=keep)
    result = quantize(work, step, initial.job)
    images = torch.from_numpy(initial.test.batch(range(5))[0][0])
    with torch.no_grad():
        expected = result.module(images)
        package = aoti_compile_and_package(
            exported(result.module, result.inputs, strict=False),
            package_path=str(tmp_path / "program.pt2"),
            inductor_configs={"freezing": True, "cpp.dynamic_threads": True},
        )
    program = aoti_load_package(package)
    for batch in (1, 5):
        outputs = program(images[:batch])
        assert float((outputs - expected[:batch]).norm() / expected[:batch].norm()) < 0.02
