"""Scores of a module on the validation samples, for steps and the search.

The held-out test samples are for the finished artifact alone: a choice by them would bias the
result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch

from cluster.artifact.manifest import Score
from cluster.compression.evaluation import metrics
from cluster.compression.evaluation.measure import outputs_of
from cluster.data import PreparedSamples
from cluster.models.forward import Eager
from cluster.program.node import cpus


class Validation:
    """Scores by one metric on fixed samples, with the baseline's."""

    def __init__(
        self,
        metric: str,
        samples: PreparedSamples,
        baseline: Callable[[], torch.nn.Module],
        count: int | None = None,
        *,
        one_by_one: bool = False,
    ) -> None:
        """``baseline`` copies the model before compression. ``count``: samples, None for all.

        ``one_by_one``: run each sample alone.
        """
        self._one_by_one = one_by_one
        self._metric = metrics.metric(metric)
        self._samples = samples
        self._baseline = baseline
        self._count = count

    def scores(self, module: torch.nn.Module) -> np.ndarray:
        """Return one score per sample, float64 ``[N]``, each 0..1."""
        outputs, labels = self._outputs(module)
        return self._metric(outputs, labels, self._expected[0])

    def score(self, module: torch.nn.Module) -> Score:
        """Return the mean score, with its interval."""
        return metrics.mean_score(self.scores(module))

    @cached_property
    def baseline_scores(self) -> np.ndarray:
        """The baseline's score per sample, float64 ``[N]``."""
        outputs, labels = self._expected
        return self._metric(outputs, labels, outputs)

    @cached_property
    def _expected(self) -> tuple[np.ndarray, np.ndarray]:
        return self._outputs(self._baseline())

    def _outputs(self, module: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
        torch.set_num_threads(cpus())

        run = Eager(module, one_by_one=self._one_by_one)
        return outputs_of(lambda arrays: run(arrays)[0], self._samples, self._count)
