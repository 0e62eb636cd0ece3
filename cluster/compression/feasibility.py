"""Checks of a build before anything is computed: the machine, the model's layers, the disk.

recipe         → check_recipe   schemes and kinds on the recipe's targets; the CPU's features
recipe, model  → check_model    layers that steps name, outputs that steps need
recipe, model  → check_disk     free bytes where the job writes

Each failure would end the job after the training at the latest, so it ends here.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from cluster.compression.evaluation import causes
from cluster.compression.figures import size
from cluster.compression.layers import matching
from cluster.compression.programs import builder
from cluster.compression.programs.requirements import kinds_of
from cluster.compression.quantization import quantize
from cluster.config.recipe import Recipe
from cluster.config.steps import Prune, Quantize, Step
from cluster.errors import CompressionError
from cluster.models import LoadedModel
from cluster.progress import Print

_SHARES = {"weight_only_int4": 0.125, "bf16": 0.5, "fp16": 0.5}
"""Scheme → bytes of a quantized weight over those in float32, if not a quarter."""


def check_recipe(recipe: Recipe, out: Print) -> None:
    """Raise CompressionError if a scheme or a named kind of program fits no target here.

    Warn of a CPU on which a scheme is known to lose accuracy.
    """
    builder.check(recipe)
    for step in _quantizing(recipe.steps):
        quantize.check_targets(step, recipe)
    schemes = [step.scheme for step in _quantizing(recipe.steps)]
    if recipe.search is not None:
        schemes += [scheme for scheme in recipe.search.space.schemes if scheme != "none"]
    for program in recipe.programs:
        for scheme in schemes:
            if (cause := causes.saturation(scheme, program.target)) is not None:
                out(f"warning  {scheme} may lose accuracy: {cause}")


def check_model(recipe: Recipe, model: LoadedModel) -> None:
    """Raise CompressionError if a step names no layer of the model, or applies to none.

    Steps after a structured pruning are left out: it adds layers to some models.
    """
    module, metric = model.module, recipe.evaluation.metrics[0]
    for position, step in enumerate(recipe.steps):
        if isinstance(step, Quantize):
            quantize.check_layers(step, module)
        if isinstance(step, Prune):
            matching(module, step.spare, f"steps[{position}].spare")
            if step.method == "structured":
                if step.importance == "taylor" and metric in ("cosine", "ranking"):
                    raise CompressionError(
                        f"steps[{position}]: importance taylor needs the gradient of the "
                        f"cross-entropy, but the metric is {metric}, so the model returns "
                        "embeddings, not classes; use importance magnitude"
                    )
                return


def check_disk(recipe: Recipe, module: nn.Module, folder: Path) -> None:
    """Raise CompressionError if the disk of ``folder`` has no room for the build's weights.

    Counted are the baseline, the weights and one file of weights per program; checkpoints of a
    training are not.
    """
    tensors = [*module.parameters(), *module.buffers()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    steps = _quantizing(recipe.steps)
    share = _SHARES.get(steps[-1].scheme, 0.25) if steps else 1.0
    programs = sum(len(kinds_of(program)) for program in recipe.programs)
    required = int(weights * (1 + share * (1 + programs)))
    free = shutil.disk_usage(folder).free
    if free < required:
        raise CompressionError(
            f"{folder} has {size(free)} free, and the build needs {size(required)} at least: the "
            f"model has {size(weights)} in float32, and {programs} programs are built from it; "
            "free space, or choose another store"
        )


def _quantizing(steps: Sequence[Step]) -> list[Quantize]:
    return [step for step in steps if isinstance(step, Quantize)]
