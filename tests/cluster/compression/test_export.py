"""Exported graphs are compared with the module, on samples and on noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cluster.compression.equivalence import check_rewrite, outputs_of
from cluster.compression.export import exported
from cluster.compression.probes import Probes
from cluster.errors import CompressionError
from cluster.tensors import TensorSpec

INPUTS = (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),)
ROWS = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
PROBES = Probes((ROWS,), 16)


class Of(nn.Module):
    """Linear layer behind a function of the input."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.function(x))
        return output


def exports_otherwise(x: torch.Tensor) -> torch.Tensor:
    return x.abs() if torch.compiler.is_exporting() else x


def random_noise(x: torch.Tensor) -> torch.Tensor:
    return functional.dropout(x, 0.5)  # in training mode, whatever the module's mode is


def only_for_noise(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-1, 1) if torch.compiler.is_exporting() else x


def test_faithful_export_passes_at_any_batch_size() -> None:
    module = Of(torch.relu).eval()
    graph = exported(module, INPUTS, strict=False, probes=PROBES).module()
    expected = module(torch.from_numpy(ROWS)).detach().numpy()
    np.testing.assert_allclose(outputs_of(graph, PROBES)[0], expected, atol=1e-6)
    exported(module, INPUTS, strict=False, batch=5, probes=Probes((ROWS,), 16, batch=5))


def test_module_that_exports_otherwise_is_rejected() -> None:
    with pytest.raises(CompressionError) as caught:
        exported(Of(exports_otherwise).eval(), INPUTS, strict=False, probes=PROBES)
    message = str(caught.value)
    assert message.startswith("the graph of torch.export is not the model: before anything is")
    assert "16 training samples and 8 of noise, at most 0.001" in message
    assert "does not ask whether it is exported" in message


def test_fault_that_samples_do_not_show_is_found_by_noise() -> None:
    module = Of(only_for_noise).eval()
    narrow = ROWS.copy()
    narrow[:16] = np.clip(narrow[:16], -1, 1)
    exported(module, INPUTS, strict=False, probes=Probes((narrow[:16],), 16))
    with pytest.raises(CompressionError, match="is not the model"):
        exported(module, INPUTS, strict=False, probes=Probes((narrow,), 16))


def test_module_with_random_outputs_is_named_as_such() -> None:
    with pytest.raises(CompressionError, match="differently from run to run, by"):
        exported(Of(random_noise).eval(), INPUTS, strict=False, probes=PROBES)


def test_rewrite_in_float_may_not_round() -> None:
    module = Of(torch.relu).eval()

    def rounded(x: torch.Tensor) -> Any:
        return module((x * 50).round() / 50)

    with pytest.raises(CompressionError, match="the copy is not the model"):
        check_rewrite(rounded, module, PROBES, "the copy", "try another")


@pytest.mark.parametrize("several", [lambda y: (y, y[:, :1]), lambda y: {"a": y, "b": y.sum(1)}])
def test_several_outputs_are_all_compared(several: Callable[[torch.Tensor], Any]) -> None:
    module = Of(torch.relu).eval()

    class Several(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return several(module(x))

    assert len(outputs_of(Several(), PROBES)) == 2
    check_rewrite(Several(), Several(), PROBES, "the copy", "")
    with pytest.raises(CompressionError, match="the copy is not the model"):
        check_rewrite(lambda x: several(module(x) + x[:, :1]), Several(), PROBES, "the copy", "")


def test_noise_of_integers_stays_in_range_of_each_position() -> None:
    samples = np.array([[3, 100, 1], [5, 900, 1], [4, 500, 1]], np.int64)

    class Train:
        def __len__(self) -> int:
            return 3

        def batch(self, rows: range) -> tuple[list[np.ndarray], None]:
            return [samples[rows]], None

    train: Any = Train()
    probes = Probes.of(train, seed=0)
    assert probes.samples == 3
    assert len(probes) == 6
    noise = probes.inputs[0][3:]
    assert noise.dtype == np.int64
    assert ((noise >= samples.min(0)) & (noise <= samples.max(0))).all()
    assert len(probes.few()) == 4
    assert len(probes.without_noise()) == 3
