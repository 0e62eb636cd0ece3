"""Export of a module as one graph, compared with the module.

module → torch.export ─→ graph ─ the same outputs on the probes? ─→ for a compiler or a quantizer
"""

from __future__ import annotations

import inspect

import torch
from torch.fx import GraphModule

from cluster.compression.equivalence import check_rewrite
from cluster.compression.probes import Probes
from cluster.errors import CompressionError
from cluster.models import copy_of, faults
from cluster.tensors import TensorSpec

EXPORT_BATCH = 8
"""Batch size of the example for an export; the exported batch is dynamic."""


_ADVICE = (
    "change its forward so that it does not ask whether it is exported or traced, and does not "
    "depend on the batch size or on values outside its parameters and buffers"
)


def exported(
    module: torch.nn.Module,
    inputs: tuple[TensorSpec, ...],
    *,
    strict: bool,
    batch: int | None = None,
    probes: Probes | None = None,
) -> torch.export.ExportedProgram:
    """Return the model as a graph whose batch dimension is 1 to 1024, or exactly ``batch``.

    ``strict``: trace the module's Python code (TorchDynamo). Without it the module runs on fake
    tensors, and its code is traced only if that fails: it sees ``len(x)`` as the batch, which is a
    number to the module. CompressionError if the model has no such graph, for instance because it
    branches on values, or if the graph computes something else than ``module`` on the ``probes``.
    """
    # A forward may keep a fake tensor.
    traceable = module if isinstance(module, GraphModule) else copy_of(module)
    # Inductor mistakes the layout behind a convolution of one channel whose weights are channels
    # last, as training leaves them. Packing brings them into the kernel's own layout anyway.
    traceable.to(memory_format=torch.contiguous_format)
    example = tuple(torch.from_numpy(spec.zeros(batch or EXPORT_BATCH)) for spec in inputs)
    shapes = None if batch else _dynamic_batch(traceable, inputs)
    errors = []
    for traced in (True,) if strict else (False, True):
        try:
            program = torch.export.export(traceable, example, dynamic_shapes=shapes, strict=traced)
        # torch.export's errors for unsupported models have no common base class.
        except Exception as error:  # noqa: BLE001
            errors.append(error)
            continue
        if probes is not None:
            check_rewrite(program.module(), module, probes, "the graph of torch.export", _ADVICE)
        return program
    fixed = "specialized it to be a constant" in str(errors[-1])
    reason = "forward fixes the batch to a number" if fixed else faults.sentence(errors[-1])
    raise CompressionError(
        f"the model cannot be exported as one graph for every batch size ({reason}); change its "
        "forward so that it neither branches on values nor fixes the batch"
    ) from errors[-1]


def _dynamic_batch(module: torch.nn.Module, inputs: tuple[TensorSpec, ...]) -> tuple:
    batch = torch.export.Dim("batch", min=1, max=1024)
    shapes = tuple({0: batch} for _ in inputs)
    parameters = inspect.signature(module.forward).parameters.values()
    # For inputs of one ``*args`` parameter, shapes are nested one level deeper.
    variadic = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    return (shapes,) if variadic else shapes
