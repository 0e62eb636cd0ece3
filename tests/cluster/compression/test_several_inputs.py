"""Artifact of a model with two inputs of different shapes and datatypes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.artifact.local import LocalStore
from cluster.compression import job
from cluster.config.base import parse
from cluster.config.recipe import Recipe
from cluster.program import program

MODULE = """
import numpy as np
import torch

class Both(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(10, 8)
        self.linear = torch.nn.Linear(3, 8)

    def forward(self, words, numbers):
        return self.table(words).mean(1) + self.linear(numbers)

def samples():
    random = np.random.default_rng(0)
    words = random.integers(0, 10, (60, 5))
    return {"numbers": random.normal(size=(60, 3)).astype(np.float32), "words": words}
"""


def test_two_inputs_keep_names_and_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headrace_both.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")  # the evaluation is a process
    importlib.invalidate_caches()
    raw = {
        "name": "both",
        "model": {
            "source": "python:headrace_both:Both",
            "activation": "none",
            "tensors": [
                {"name": "words", "shape": [5], "datatype": "INT64"},
                {"name": "numbers", "shape": [3]},
            ],
        },
        "data": {"source": "python:headrace_both:samples"},
        "evaluation": {"metrics": ["cosine"], "repeats": 5, "batches": [1]},
        "programs": [{"kinds": ["exported"]}],
        "gate": {"min_speedup": None, "max_size_share": None},
    }
    try:
        built = job.run(
            parse(raw, Recipe, "recipe"), LocalStore(tmp_path / "store"), lambda _: None
        )
        assert built.artifact is not None
        manifest = built.artifact.manifest
        assert [(s.name, s.datatype, s.shape) for s in manifest.inputs] == [
            ("words", "INT64", (-1, 5)),
            ("numbers", "FP32", (-1, 3)),
        ]
        words, numbers = np.arange(15).reshape(3, 5) % 10, np.float32(np.arange(9).reshape(3, 3))
        outputs = program.load(built.artifact, 1).run([words, numbers])[0]
        from headrace_both import Both  # type: ignore[import-not-found]

        expected = Both()(torch.from_numpy(words), torch.from_numpy(numbers)).detach().numpy()
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    finally:
        sys.modules.pop("headrace_both", None)
