"""Running what PyTorch's Python package loads: from numpy arrays to numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.program.loaded import Compute

_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""What an entry's ``precision`` option calls a dtype → PyTorch's name for it."""


def compute_with(
    model: Callable[..., Any], compute_threads: int, target: str, precision: str | None = None
) -> Compute:
    """Calls ``model`` on tensors on the target's device.

    ``precision``: one of f32, bf16, f16, what floating inputs are cast to on the way in; outputs
    are then cast back to float32. None leaves both as they are. Python's lock is held throughout.
    """
    # A replica pays about 2 s for this import, and only with programs that need it.
    import torch

    device = device_of(target)
    dtype = dtype_of(precision)

    def given(array: Any) -> Any:
        tensor = torch.from_numpy(array).to(device)
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    def compute(arrays: list) -> list:
        torch.set_num_threads(compute_threads)
        with torch.inference_mode():
            outputs = model(*map(given, arrays))
            outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            if dtype is not None:
                outputs = [tensor.float() for tensor in outputs]
            # Cloned, because a result may be a view of an input, which is only borrowed.
            return [
                tensor.cpu().clone(memory_format=torch.contiguous_format).numpy()
                for tensor in outputs
            ]

    return compute


def dtype_of(precision: str | None) -> Any:
    """The ``torch.dtype`` of an entry's ``precision`` option, None for None."""
    import torch

    return None if precision is None else getattr(torch, _DTYPES[precision])


def device_of(target: str) -> str:
    """PyTorch's name of the device that programs for ``target`` run on."""
    return "cuda" if target.startswith("cuda-") else "cpu"
