"""Observers of an activation's range on the calibration samples.

minmax      the full range (torchao's MinMaxObserver)
histogram   the range with the least squared rounding error (torchao's HistogramObserver)
percentile  the range that holds a share of the values, clipped equally at both ends

This module imports torchao, which takes half a second: import it only in functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torchao.quantization.pt2e.observer import HistogramObserver, MinMaxObserver

from cluster.config.steps import Quantize


class PercentileObserver(HistogramObserver):
    """Observer of the range that holds ``percentile`` percent of the values, by their histogram.

    Half of the rest is clipped at each end. Within a bin, values count as evenly spread. Wu et al.
    2020, "Integer Quantization for Deep Learning Inference", section 4.
    """

    def __init__(self, percentile: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.percentile = percentile

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale_and_zero_point: tuple[torch.Tensor, torch.Tensor] = self._calculate_qparams(
            *self.range()
        )
        return scale_and_zero_point

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the lower and the upper end, float32 scalars."""
        tail = (1 - self.percentile / 100) / 2
        return self._quantile(tail), self._quantile(1 - tail)

    def _quantile(self, share: float) -> torch.Tensor:
        if share in (0.0, 1.0) or self.min_val == self.max_val:
            return self.max_val if share == 1.0 else self.min_val
        # float64: the tails are small shares of large sums.
        below = torch.cumsum(self.histogram.double(), 0)
        target = share * below[-1]
        inside = int(torch.searchsorted(below, target).clamp(max=self.bins - 1))
        before = below[inside - 1] if inside else below.new_zeros(())
        part = (target - before) / (below[inside] - before).clamp(min=1e-30)
        width = (self.max_val - self.min_val).double() / self.bins
        return (self.min_val + width * (inside + part)).float()


def observer(step: Quantize, **settings: Any) -> Callable[..., torch.nn.Module]:
    """Return the factory of ``step.calibration``'s observers, with torchao's ``settings``."""
    kinds: dict[str, Callable[..., Any]] = {
        "minmax": MinMaxObserver.with_args,
        "histogram": HistogramObserver.with_args,
        "percentile": partial(PercentileObserver.with_args, percentile=step.percentile),
    }
    factory: Callable[..., torch.nn.Module] = kinds[step.calibration](**settings)
    return factory
