"""Job and Work: context and model that the stages of a build share.

Job   the recipe, its data, where to write and to run    the same from the first stage to the last
Work  the model between two steps                        replaced by every step
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cluster.artifact.artifact import TOKENIZER
from cluster.artifact.store import ArtifactStore
from cluster.compression.equivalence import outputs_of
from cluster.compression.launch import InProcess, Launcher
from cluster.compression.probes import Probes
from cluster.compression.record import SourceCheck
from cluster.config.recipe import Recipe
from cluster.config.steps import Quantize
from cluster.data import LabelledData, PreparedSamples, load_data, require_readable
from cluster.data.prepared import MEMO_BYTES
from cluster.data.samples import Samples
from cluster.errors import ForwardError
from cluster.models import LoadedModel, copy_of, load_model
from cluster.progress import Print
from cluster.tensors import TensorSpec


@dataclass(frozen=True)
class Precision:
    """Result of a quantize step besides the module."""

    step: Quantize
    float_module: torch.nn.Module
    """The float32 module before the step, for compilers that quantize by themselves (OpenVINO)."""

    operators: int
    """Operators that compute, or are stored, in fewer bits."""

    bfloat16_layers: tuple[str, ...] = ()
    """Names of layers in ``float_module`` that are bfloat16, not quantized."""

    whole: bool = True
    """False if a scheme of half precision converts single layers, not the whole model."""


@dataclass(frozen=True)
class Work:
    """Model between two steps.

    ``module`` takes ``inputs`` as positional arguments, each ``[batch, ...]``. It returns logits
    or an embedding ``[batch, outputs]`` in float32. ``weights`` returns the tensors that it
    computes with, by name: the content of the artifact's safetensors file. ``precision`` is None
    while everything is float32.
    """

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    weights: Callable[[], dict[str, torch.Tensor]]
    precision: Precision | None = None
    part: bool = False
    """Whether it is a stage or a slice of the model, which does not compute the model's outputs."""

    @property
    def float_module(self) -> torch.nn.Module:
        """The float32 module, before the quantize step if there is one."""
        return self.precision.float_module if self.precision else self.module

    @property
    def scheme(self) -> str | None:
        """Scheme of the quantize step; None while everything is float32."""
        return self.precision.step.scheme if self.precision else None

    @property
    def quantized_operators(self) -> int:
        return self.precision.operators if self.precision else 0

    @staticmethod
    def of(module: torch.nn.Module, inputs: tuple[TensorSpec, ...]) -> Work:
        """Return the work of a float32 module; its weights are the module's state."""
        return Work(module, inputs, lambda: tensors_of(module))


class Clock:
    """Seconds spent in each phase of a job."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to the phase."""
        started = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started

    def fork(self) -> Clock:
        """Return a clock that continues from these seconds, for one of several builds."""
        fork = Clock(self._now)
        fork.seconds.update(self.seconds)
        return fork


@dataclass(frozen=True)
class Job:
    """One run of a recipe: the context that all stages of its build share.

    :meth:`load` creates it once. A step gets a copy with its own ``checkpoints`` and ``details``.
    Each trial of a search loads a job in its own process.
    """

    recipe: Recipe
    store: ArtifactStore
    data: LabelledData
    model: LoadedModel
    """The model as loaded, before the first step."""

    train: PreparedSamples
    validation: PreparedSamples
    """Samples for sensitivity, early stops and choices. No step trains on them."""

    baseline: Callable[[], torch.nn.Module]
    """Returns a new copy of the float32 model before compression, in eval mode."""

    workspace: Path
    """Directory that is deleted with the job."""

    checkpoints: Path
    """Directory that survives a kill, for a restart of the same job."""

    launcher: Launcher
    out: Print
    identity: str = ""
    """Everything besides the recipe's text that decides the result, see `origin`."""

    clock: Clock = field(default_factory=Clock)
    details: dict[str, Any] = field(default_factory=dict)
    """Findings of the current step, as plain data, for the report."""

    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Samples that are left out: name → reason."""

    source_check: SourceCheck = field(default_factory=SourceCheck)

    @staticmethod
    def load(
        recipe: Recipe,
        store: ArtifactStore,
        *,
        workspace: Path,
        checkpoints: Path,
        out: Print,
        launcher: Launcher | None = None,
        data: LabelledData | None = None,
        identity: str = "",
        clock: Clock | None = None,
        checked: bool = False,
    ) -> Job:
        """Load the recipe's data and model. The baseline is the loaded model.

        ``launcher``: None runs everything in this process. ``data``: the recipe's data, if already
        loaded. ``checked``: as for :func:`cluster.models.load_model`. SourceError if the model or
        the data cannot be used.
        """
        if data is None:
            data = load_data(recipe.data, recipe.seed)
        torch.manual_seed(recipe.seed)  # decides the initial weights of a new head
        model = load_model(recipe.model, data.labels, checked=checked)
        return Job(
            recipe=recipe,
            store=store,
            data=data,
            model=model,
            train=_prepared(data.train, model),
            validation=_prepared(data.validation, model),
            baseline=lambda: copy_of(model.module).eval(),
            workspace=workspace,
            checkpoints=checkpoints,
            launcher=launcher or InProcess(),
            out=out,
            identity=identity,
            clock=clock or Clock(),
        )

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @cached_property
    def probes(self) -> Probes:
        """Inputs on which a rewritten model is compared with the one that it was made from.

        There is no noise among them if the model raises an error for noise.
        """
        probes = Probes.of(self.train, self.seed, 1 if self.recipe.one_by_one else None)
        try:
            outputs_of(self.baseline(), probes)
        except ForwardError as error:
            self.out(f"probes   samples alone, because the model rejects noise: {error}")
            return probes.without_noise()
        return probes

    def probes_for(self, work: Work) -> Probes | None:
        """Return the probes for a whole model with the job's inputs; None for a part of one."""
        whole = not work.part and work.inputs == self.model.inputs
        return self.probes if whole else None

    @property
    def baseline_weights(self) -> Path:
        """File with the weights of the baseline; it exists once the baseline is trained."""
        return self.workspace / "baseline.safetensors"

    def checked(self) -> Job:
        """Return the job with its unreadable samples; SourceError if they are over the limit."""
        # The evaluation's processes decode the held-out samples again.
        test = _prepared(self.data.test, self.model, memo_bytes=0)
        sets = (self.train, self.validation, test)
        limit = self.recipe.data.max_unreadable
        return replace(self, unreadable=require_readable(sets, limit, self.out))

    def with_baseline(self, module: torch.nn.Module) -> Job:
        """Return the job whose baseline is ``module``."""
        return replace(self, baseline=lambda: copy_of(module).eval())

    def for_step(self, checkpoints: Path) -> Job:
        """Return the job of one step, with its own checkpoints and details."""
        return replace(self, checkpoints=checkpoints, details={})


def _prepared(
    samples: Samples, model: LoadedModel, memo_bytes: int = MEMO_BYTES
) -> PreparedSamples:
    return PreparedSamples(
        samples,
        model.inputs,
        model.preprocess,
        model.files.get(TOKENIZER),
        memo_bytes=memo_bytes,
        skip_unreadable=True,
    )


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the module's state as contiguous tensors that share no memory."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
