"""``module:factory`` → the callable it names, for models, data and metrics that users bring."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import fingerprint
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


def identity(path: str) -> str:
    """Fingerprint of the file that holds the callable's module; files it imports do not count.

    Raises :class:`SourceError` when it cannot be found, or its file cannot be read.
    """
    found = find_factory(path)
    module = sys.modules[path.partition(":")[0]]
    try:
        file = Path(inspect.getfile(module))
        return fingerprint.of_files(file.parent, [file])
    except (TypeError, OSError) as error:  # built in, or gone from the disk
        raise SourceError(f"python:{path}: the file of {found} cannot be read: {error}") from error


def _is_public(name: str, value: object) -> bool:
    return not name.startswith("_") and callable(value)
