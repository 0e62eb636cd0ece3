"""Layers by name: match a recipe's patterns, and suggest names for one that matches nothing."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from cluster.errors import CompressionError


def matching(module: torch.nn.Module, patterns: Sequence[str], field: str) -> tuple[str, ...]:
    """Return the names of submodules that match any of ``patterns``, in the module's order.

    ``field``: the recipe's field of the patterns, for the message. CompressionError, naming the
    nearest layers, if a pattern matches none.
    """
    known = [name for name, _ in module.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            near = difflib.get_close_matches(pattern, known, n=5, cutoff=0.3) or known[:5]
            raise CompressionError(
                f"{field}: no layer is called {pattern!r}; near it: {', '.join(near) or 'none'}"
            )
    return tuple(name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns))
