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
from cluster.models.built_model import BuiltModel, declared_input
from cluster.models.forward import Eager
from cluster.tensors import TensorSpec


def build(path: str, source: ModelSource, classes: int | None) -> BuiltModel:
    """Call ``path`` (``module:factory``), with ``num_classes=`` if it has this parameter.

    Raises :class:`SourceError` when the recipe declares no input, or the factory cannot be
    found, raises, or returns something other than a module.
    """
    declared = declared_input(source)
    if declared is None:
        raise SourceError(
            f"model.source {source.source!r} does not declare the model's input; add model.image "
            f"(size, mean, std) for images, or model.tensor (shape, datatype) for plain tensors"
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
    spec, preprocess = declared
    _require_one_input(module, source.source)
    _materialize(module, spec, source.source)
    if source.weights is not None:
        checkpoints.fill(module, Path(source.weights))
    return BuiltModel(module=module, inputs=(spec,), preprocess=preprocess)


def _require_one_input(module: torch.nn.Module, name: str) -> None:
    """Raise SourceError if forward cannot be called with one positional argument."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # written in C, or scripted
        return
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [p.name for p in parameters if p.kind in positional]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (*positional, inspect.Parameter.KEYWORD_ONLY)
    ]
    others = [parameter for parameter in needed if parameter not in taken[:1]]
    if others:
        raise SourceError(
            f"{name}: forward needs {len(needed)} inputs ({', '.join(needed)}), and a model of a "
            "python: source has the one that model.image or model.tensor declares; wrap it in a "
            "module that takes one tensor and splits it (x[:, :4], x[:, 4:]), or give "
            f"{', '.join(others)} defaults. Nothing was built"
        )
    if not taken and not variadic:
        raise SourceError(f"{name}: forward takes no input, expected one tensor. Nothing was built")


def _materialize(module: torch.nn.Module, spec: TensorSpec, name: str) -> None:
    """Run forward once if that gives lazy layers their sizes, or adds tensors to the state.

    Random weights that it makes are drawn from torch's random state.
    """
    tensors = (*module.parameters(), *module.buffers())
    lazy = any(is_lazy(tensor) for tensor in tensors)
    if not lazy and not _grows(module, spec):
        return
    try:
        with torch.no_grad():
            module.eval()(torch.from_numpy(spec.zeros(1)))
    # A user's forward can raise anything.
    except Exception as error:
        raise SourceError(
            f"{name}: its lazy layers need one run, which failed on {spec.name} {spec.datatype} "
            f"{[1, *spec.item_shape]}: {faults.sentence(error)}; change model.image or "
            "model.tensor to the model's input"
        ) from error


def _grows(module: torch.nn.Module, spec: TensorSpec) -> bool:
    """Return whether a first forward adds tensors to the state that do not depend on its input."""
    zeros = spec.zeros(1)
    try:
        added = _added(module, zeros)
        return bool(added) and all(
            buffer is None or (other is not None and torch.equal(buffer, other))
            for buffer, other in zip(added, _added(module, np.ones_like(zeros)), strict=True)
        )
    except ForwardError:  # the probe of all sources reports it
        return False


def _added(module: torch.nn.Module, array: np.ndarray) -> list[torch.Tensor | None]:
    """Return the stored buffers that a first forward adds, and None for each parameter."""
    with forward.random_states():
        run = Eager(module.eval())
        run.answer([array])
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
