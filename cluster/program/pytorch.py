"""Execution by PyTorch's Python package: numpy arrays in, numpy arrays out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.program.loaded import Compute

_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""An entry's ``precision`` option → PyTorch's name of the dtype."""


def compute_with(
    model: Callable[..., Any], compute_threads: int, target: str, precision: str | None = None
) -> Compute:
    """Return a function that calls ``model`` on tensors on the target's device.

    ``precision``: f32, bf16 or f16, to which floating inputs are cast; outputs are then cast back
    to float32. None: no casts. The function holds Python's lock throughout.
    """
    # Imported here: it costs about 2 s, and most programs do not need it.
    import torch

    device = device_of(target)
    dtype = dtype_of(precision)

    def to_tensor(array: Any) -> Any:
        tensor = torch.from_numpy(array).to(device)
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    def compute(arrays: list) -> list:
        torch.set_num_threads(compute_threads)
        with torch.no_grad():  # a forward that differentiates fails in inference mode
            outputs = model(*map(to_tensor, arrays))
            outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            if dtype is not None:
                outputs = [tensor.float() for tensor in outputs]
            # Cloned: a result may be a view of an input, whose memory is the caller's.
            return [
                tensor.cpu().clone(memory_format=torch.contiguous_format).numpy()
                for tensor in outputs
            ]

    return compute


def dtype_of(precision: str | None) -> Any:
    """Return the ``torch.dtype`` of an entry's ``precision`` option, or None for None."""
    import torch

    return None if precision is None else getattr(torch, _DTYPES[precision])


def device_of(target: str) -> str:
    """Return PyTorch's name of the device for programs of ``target``."""
    return "cuda" if target.startswith("cuda-") else "cpu"
