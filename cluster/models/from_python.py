"""``python:module:factory``: a module from the user's own function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from cluster import factory
from cluster.config.sources import ModelSource
from cluster.errors import ForwardError, SourceError
from cluster.models import checkpoints, faults, forward
from cluster.models.built_model import BuiltModel, declared_inputs
from cluster.models.forward import Eager
from cluster.tensors import TensorSpec


def build(path: str, source: ModelSource, classes: int | None) -> BuiltModel:
    """Call ``path`` (``module:factory``), with ``num_classes=`` if it has this parameter.

    Raises :class:`SourceError` when the recipe declares no input, or the factory cannot be
    found, raises, or returns something other than a module.
    """
    declared = declared_inputs(source)
    if declared is None:
        raise SourceError(
            f"model.source {source.source!r} does not declare the model's input; add model.image "
            f"(size, mean, std) for images, model.tensor (shape, datatype) for a plain tensor, or "
            "model.tensors for several"
        )
    build_module = factory.find_factory(path)
    arguments = _arguments(build_module, source, classes)
    try:
        module = build_module(**arguments)
    except Exception as error:
        shown = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise SourceError(
            f"{source.source}: calling the factory ({shown}) raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise SourceError(
            f"{source.source}: the factory returned {type(module).__name__}, expected a "
            f"torch.nn.Module"
        )
    inputs, preprocess = declared
    _check_signature(module, inputs, source.source)
    _materialize(module, inputs, source.source)
    if source.weights is not None:
        checkpoints.fill(module, Path(source.weights))
    return BuiltModel(module=module, inputs=inputs, preprocess=preprocess)


def _check_signature(module: torch.nn.Module, inputs: tuple[TensorSpec, ...], name: str) -> None:
    """Raise SourceError if forward does not take the declared inputs by position, in order."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # written in C, or scripted
        return
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in by_position if p.default is p.empty]
    most = len(inputs) if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(by_position)
    declared = [spec.name for spec in inputs]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if named:
        raise SourceError(
            f"{name}: forward needs {', '.join(named)} by keyword, and inputs are passed by "
            f"position; take it by position, or give it a default. Nothing was built"
        )
    if not len(required) <= len(inputs) <= most:
        takes = ", ".join(required or [p.name for p in by_position]) or "none"
        raise SourceError(
            f"{name}: forward takes {len(required or by_position)} inputs ({takes}), and the "
            f"recipe declares {len(inputs)} ({', '.join(declared)}); declare each in "
            "model.tensors, in the order of forward. Nothing was built"
        )
    order = [p.name for p in by_position[: len(inputs)]]
    if order != declared and sorted(order) == sorted(declared):
        raise SourceError(
            f"{name}: forward takes {', '.join(order)} and model.tensors has "
            f"{', '.join(declared)}: equal names in another order; reorder model.tensors. Nothing "
            "was built"
        )


def _materialize(module: torch.nn.Module, inputs: tuple[TensorSpec, ...], name: str) -> None:
    """Run forward once if that gives lazy layers their sizes, or adds tensors to the state.

    Random weights that it makes are drawn from torch's random state.
    """
    tensors = (*module.parameters(), *module.buffers())
    lazy = any(is_lazy(tensor) for tensor in tensors)
    if not lazy and not _grows(module, inputs):
        return
    try:
        with torch.no_grad():
            module.eval()(*(torch.from_numpy(spec.zeros(1)) for spec in inputs))
    # A user's forward can raise anything.
    except Exception as error:
        described = ", ".join(f"{s.name} {s.datatype} {[1, *s.item_shape]}" for s in inputs)
        raise SourceError(
            f"{name}: its lazy layers need one run, which failed on {described}: "
            f"{faults.sentence(error)}; change model.image, model.tensor or model.tensors to the "
            "model's input"
        ) from error


def _grows(module: torch.nn.Module, inputs: tuple[TensorSpec, ...]) -> bool:
    """Return whether a first forward adds tensors to the state that do not depend on its input."""
    zeros = [spec.zeros(1) for spec in inputs]
    ones = [np.ones_like(array) for array in zeros]
    try:
        added = _added(module, zeros)
        return bool(added) and all(
            buffer is None or (other is not None and torch.equal(buffer, other))
            for buffer, other in zip(added, _added(module, ones), strict=True)
        )
    except ForwardError:  # the probe of all sources reports it
        return False


def _added(module: torch.nn.Module, arrays: list[np.ndarray]) -> list[torch.Tensor | None]:
    """Return the stored buffers that a first forward adds, and None for each parameter."""
    with forward.random_states():
        run = Eager(module.eval())
        run.answer(arrays)
    buffers = dict(run.module.named_buffers())
    names = run.module.state_dict().keys() - module.state_dict().keys()
    return [buffers.get(name) for name in sorted(names)]


def identity(path: str, source: ModelSource) -> str:
    """Return the fingerprint of the file with the factory's module."""
    return factory.identity(path)


def _arguments(
    factory: Callable[..., Any], source: ModelSource, classes: int | None
) -> dict[str, int]:
    try:
        parameter = inspect.signature(factory).parameters.get("num_classes")
    except ValueError:  # a callable written in C may have no signature
        return {}
    if parameter is None:
        return {}
    if classes is None:
        if parameter.default is inspect.Parameter.empty:
            raise SourceError(
                f"{source.source}: the factory needs num_classes; set model.num_classes"
            )
        return {}
    return {"num_classes": classes}
