"""``module:factory`` → the callable it names, for models and data that users bring as code."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from cluster.errors import SourceError


def find_factory(path: str) -> Callable[..., Any]:
    """The callable named by ``path``, which reads ``package.module:function``.

    Raises :class:`SourceError` when the module cannot be imported, has no such attribute, or
    the attribute cannot be called.
    """
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SourceError(
            f"python:{path}: there is no module {error.name!r} to import; put its folder on "
            f"PYTHONPATH, or install it"
        ) from error
    except Exception as error:
        raise SourceError(
            f"python:{path}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            known = ", ".join(sorted(n for n, v in vars(found).items() if _is_public(n, v)))
            raise SourceError(
                f"python:{path}: {module_name} has no {attribute!r}; it has: {known or 'nothing'}"
            )
        found = getattr(found, name)
    if not callable(found):
        raise SourceError(
            f"python:{path}: {attribute} is of type {type(found).__name__}, expected a function"
        )
    return found


def _is_public(name: str, value: object) -> bool:
    return not name.startswith("_") and callable(value)
