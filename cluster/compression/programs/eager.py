"""Eager program: the model's Python code with the artifact's weights, without compilation."""

from __future__ import annotations

import torch

from cluster.artifact.artifact import WEIGHTS
from cluster.artifact.entries import ProgramEntry
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.work import Job, Work
from cluster.config.recipe import Recipe
from cluster.errors import CompressionError
from cluster.program import node
from cluster.program.eager import PRECISION
from cluster.program.pytorch import device_of

_PRECISIONS = {None: "f32", "bf16": "bf16", "fp16": "f16"}
"""Scheme of the quantize step, None without one → precision of the rebuilt module."""


def refusal(scheme: str | None, target: str, recipe: Recipe) -> str | None:
    """See :class:`cluster.compression.programs.builder.ProgramBuilder`."""
    if scheme not in _PRECISIONS:
        return (
            f"kind eager rebuilds the model's own code, which has no operators for {scheme}; it "
            "supports float32, bf16 and fp16"
        )
    if any(step.kind == "replace_activation" for step in recipe.steps):
        return "kind eager rebuilds the model's own code, whose activations the recipe replaces"
    if device_of(target) == "cuda" and not torch.cuda.is_available():
        return "this PyTorch has no CUDA; install a build with CUDA"
    return None


def build(work: Work, target: str, files: ProgramFiles, job: Job) -> ProgramEntry:
    """See :class:`cluster.compression.programs.builder.ProgramBuilder`."""
    if work.precision is not None and not work.precision.whole:
        raise CompressionError(
            f"kind eager converts the whole model to {work.scheme}, in which its forward does not "
            "run; build kind aoti, openvino or exported"
        )
    return ProgramEntry(
        kind="eager",
        target=target,
        file=WEIGHTS,
        cpu_features=(),
        torch_version=node.torch_version(),
        native_runner=None,
        python_abi=None,
        options={PRECISION: _PRECISIONS[work.scheme]},
        quantized_operators=work.quantized_operators,
    )
