"""Layers by name: the patterns a recipe gives, and what to say when one matches nothing."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from cluster.errors import CompressionError


def matching(module: torch.nn.Module, patterns: Sequence[str], field: str) -> tuple[str, ...]:
    """Names of the submodules that any of ``patterns`` matches, in the module's order.

    ``field``: where the patterns stand in the recipe, for the message. CompressionError, naming
    the nearest layers, for a pattern that matches none.
    """
    known = [name for name, _ in module.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            near = difflib.get_close_matches(pattern, known, n=5, cutoff=0.3) or known[:5]
            raise CompressionError(
                f"{field}: no layer is called {pattern!r}; near it: {', '.join(near) or 'none'}"
            )
    return tuple(name for name in known if any(fnmatchcase(name, each) for each in patterns))
