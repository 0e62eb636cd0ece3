"""Runs of a model's own forward that leave nothing behind in the model.

    module → copy → forward, no gradients, inputs copied → arrays | one sentence

A forward may keep tensors for later calls, count its calls, or write into its inputs. Tensors made
in inference mode could not be trained with later, so nothing here runs in that mode.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from cluster import independence
from cluster.errors import ForwardError
from cluster.models import faults
from cluster.models.copying import copy_of


class Eager:
    """A copy of a module in its present state and mode, to run on arrays."""

    def __init__(self, module: nn.Module, *, one_by_one: bool = False) -> None:
        """``one_by_one``: run each item of a batch alone."""
        self.module = copy_of(module)
        self._run = independence.one_by_one(self._together) if one_by_one else self._together
        self.overwritten = False
        """Whether a run wrote into its inputs."""

        self.drew = False
        """Whether a run drew from a random state of Python, NumPy or PyTorch."""

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the tensors of the answer to ``arrays``, floating ones in float32.

        ForwardError if forward raises.
        """
        return self._run([*arrays])

    def _together(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [_array(tensor) for tensor in _tensors(self.answer(arrays))]

    def answer(self, arrays: Sequence[np.ndarray]) -> Any:
        """Return what forward returns for copies of ``arrays``; ForwardError if it raises."""
        inputs = [torch.from_numpy(array.copy()) for array in arrays]
        before = _random_states()
        try:
            with torch.no_grad():
                answer = self.module(*inputs)
        # A user's forward can raise anything.
        except Exception as error:
            raise ForwardError(faults.sentence(error)) from error
        self.overwritten |= any(
            not np.array_equal(tensor.numpy(), array)
            for tensor, array in zip(inputs, arrays, strict=True)
        )
        self.drew |= _random_states() != before
        return answer


def _tensors(answer: Any) -> list[torch.Tensor]:
    """Return the tensors of an answer, in order: a tensor, or sequences and mappings of them."""
    if isinstance(answer, torch.Tensor):
        return [answer]
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return [tensor for part in answer for tensor in _tensors(part)]
    return []


def _array(tensor: torch.Tensor) -> np.ndarray:
    # Cloned: the answer may be a view of a tensor that the module keeps.
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _random_states() -> tuple[Any, ...]:
    _, numpy, *rest = np.random.get_state()
    torch_state = torch.get_rng_state().numpy().tobytes()
    return random.getstate(), np.asarray(numpy).tobytes(), *rest, torch_state


@contextmanager
def random_states() -> Iterator[None]:
    """Restore the random states of Python, NumPy and PyTorch after the block."""
    python, numpy = random.getstate(), np.random.get_state()
    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=used):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
