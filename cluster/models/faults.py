"""Errors that a model's own code raises, as one sentence without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cluster.errors import CompressionError, ForwardError, HeadraceError

_MEMORY = "free memory, or use smaller batches or a smaller model"


@contextmanager
def named(activity: str, advice: str) -> Iterator[None]:
    """Raise CompressionError for any error of a model's or a library's code in the block.

    Its message is one sentence: ``activity``, the error with the submodule that raised it, and
    ``advice``. Errors of files pass, as do those that are raised on purpose.
    """
    try:
        yield
    except ForwardError as error:
        remedy = _MEMORY if _out_of_memory(error.__cause__) else advice
        raise CompressionError(f"{activity}: {error}; {remedy}") from error
    except (HeadraceError, OSError):
        raise
    # Models, exporters and quantizers can raise anything.
    except Exception as error:
        remedy = _MEMORY if _out_of_memory(error) else advice
        raise CompressionError(f"{activity}: {sentence(error)}; {remedy}") from error


def sentence(error: BaseException) -> str:
    """Return the error's type and first line, and the submodule that raised it.

    ``RuntimeError: mat1 and mat2 shapes cannot be multiplied, in encoder.head (Linear)``.
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {line.rstrip('.:;')}" if line else type(error).__name__
    running = _running(error)
    return f"{text}, in {described(running[-1], running[0])}" if running else text


def described(part: nn.Module, root: nn.Module) -> str:
    """Return ``encoder.head (Linear)``, or ``forward of Model`` for the root itself."""
    names = {other: name for name, other in root.named_modules()}
    if name := names.get(part):
        return f"{name} ({type(part).__name__})"
    return f"forward of {type(part).__name__}"


def _running(error: BaseException) -> list[nn.Module]:
    """Return the user's modules in the error's traceback, from the outermost to the innermost."""
    modules = []
    traceback = error.__traceback__
    while traceback is not None:
        part = traceback.tb_frame.f_locals.get("self")
        if isinstance(part, nn.Module) and not type(part).__module__.startswith("cluster."):
            modules.append(part)
        traceback = traceback.tb_next
    return modules


def _out_of_memory(error: BaseException | None) -> bool:
    # PyTorch has an error class for a GPU's memory, but not for the CPU's.
    return isinstance(
        error, MemoryError | torch.OutOfMemoryError
    ) or "can't allocate memory" in str(error)
