"""Copies of modules that share nothing with the original: no tensor, no attribute, no closure.

``copy.deepcopy`` alone fails on tensors with a gradient history (the weight of the older
``weight_norm``, a tensor kept from a training forward), on locks and Python modules, and on modules
whose ``__getattr__`` answers for ``__deepcopy__``. It keeps functions as they are: a hook or a
lambda that refers to the model would read and write the original.

    walk → modules, functions with closures, tensors with history, locks → memo → deepcopy
"""

from __future__ import annotations

import copy
import functools
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from cluster.errors import SourceError

_SHARED = (types.ModuleType, type(threading.Lock()), type(threading.RLock()))
"""Types whose objects a copy shares with the original: they hold no state of the model."""


def copy_of(module: nn.Module) -> nn.Module:
    """Return an independent copy; parameters that share memory share it in the copy, too.

    Tensors with a gradient history lose it. SourceError if a part of the module cannot be copied.
    """
    memo: dict[int, Any] = {}
    modules: list[nn.Module] = []
    functions: list[types.FunctionType] = []
    for part in _reachable(module):
        if isinstance(part, nn.Module) and _answers_for_all(type(part)):
            modules.append(part)
            memo[id(part)] = object.__new__(type(part))
        elif isinstance(part, types.FunctionType):
            functions.append(part)
            memo[id(part)] = _with_empty_cells(part)
        elif isinstance(part, torch.Tensor) and not part.is_leaf:
            memo[id(part)] = part.detach().clone()
        elif isinstance(part, _SHARED):
            memo[id(part)] = part
    try:
        for part in modules:
            memo[id(part)].__dict__.update(copy.deepcopy(part.__dict__, memo))
        for function in functions:
            _fill_cells(memo[id(function)], function, memo)
        new: nn.Module = copy.deepcopy(module, memo)
    # An attribute's own copy protocol can raise anything.
    except Exception as error:
        raise SourceError(
            f"{type(module).__name__} cannot be copied, and compression compares the model with a "
            f"copy of it: {type(error).__name__}: {error}; keep files, threads and generators out "
            "of the module's attributes"
        ) from error
    return new


def _answers_for_all(kind: type[nn.Module]) -> bool:
    """Whether objects of ``kind`` may answer for a copy protocol that their class lacks."""
    protocol = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__")
    return (
        kind.__getattr__ is not nn.Module.__getattr__
        and not hasattr(kind, "__deepcopy__")
        and all(getattr(kind, name) is getattr(nn.Module, name) for name in protocol)
    )


def _reachable(root: object) -> Iterator[Any]:
    """Yield once each object that the module's attributes, containers and closures reach."""
    seen: dict[int, object] = {}  # the objects, too: an id is unique only while its object lives
    pending = [root]
    while pending:
        part = pending.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | type | None):
            continue
        if isinstance(part, types.FunctionType) and not _may_hold_state(part):
            continue
        seen[id(part)] = part
        yield part
        pending += _members(part)


def _may_hold_state(function: types.FunctionType) -> bool:
    # PyTorch's own closures hold locks and context variables, and no state of the model.
    return bool(function.__closure__) and not (function.__module__ or "").startswith("torch.")


def _members(part: Any) -> Iterable[Any]:
    if isinstance(part, dict):
        return part.values()
    if isinstance(part, list | tuple | set | frozenset):
        return part
    if isinstance(part, types.FunctionType):
        return [*_contents(part).values(), *(part.__defaults__ or ())]
    if isinstance(part, types.MethodType):
        return (part.__self__,)
    if isinstance(part, functools.partial):
        return (part.func, *part.args, *part.keywords.values())
    if isinstance(part, (*_SHARED, torch.fx.Graph)):  # a graph copies itself
        return ()
    attributes = getattr(part, "__dict__", None)  # of tensors, too
    return attributes.values() if isinstance(attributes, dict) else ()


def _contents(function: types.FunctionType) -> dict[int, Any]:
    """Return position → content of the function's closure, without cells that are still empty."""
    contents = {}
    for position, cell in enumerate(function.__closure__ or ()):
        try:
            contents[position] = cell.cell_contents
        except ValueError:
            continue
    return contents


def _with_empty_cells(function: types.FunctionType) -> types.FunctionType:
    new = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(types.CellType() for _ in function.__closure__ or ()),
    )
    new.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(new, function)
    new.__dict__.pop("__wrapped__", None)
    return new


def _fill_cells(new: types.FunctionType, old: types.FunctionType, memo: dict[int, Any]) -> None:
    for position, content in _contents(old).items():
        (new.__closure__ or ())[position].cell_contents = copy.deepcopy(content, memo)
    new.__defaults__ = copy.deepcopy(old.__defaults__, memo)
