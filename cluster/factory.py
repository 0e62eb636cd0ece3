"""``module:factory`` → the callable, for users' models, data and metrics."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import fingerprint
from cluster.errors import SourceError

IMPORT_PATH = "HEADRACE_IMPORT_PATH"
"""Environment variable: folders with users' modules, searched after all installed packages.

On PYTHONPATH they would come first, and a ``cluster.py`` beside a recipe would be run for ours.
"""


def find_factory(path: str) -> Callable[..., Any]:
    """Return the callable named by ``path``, in the form ``package.module:function``.

    Raises :class:`SourceError` when the module cannot be imported, has no such attribute, or
    the attribute is not callable.
    """
    module_name, _, attribute = path.partition(":")
    _extend_import_path()
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SourceError(
            f"python:{path}: no module {error.name!r}; add its folder to PYTHONPATH, or install it"
        ) from error
    except Exception as error:
        raise SourceError(
            f"python:{path}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    _require_users_own(path, module_name)
    for name in attribute.split("."):
        if not hasattr(value, name):
            public = ", ".join(sorted(n for n, v in vars(value).items() if _is_public(n, v)))
            raise SourceError(
                f"python:{path}: {module_name} has no {attribute!r}; it has: {public or 'nothing'}"
            )
        value = getattr(value, name)
    if not callable(value):
        raise SourceError(
            f"python:{path}: {attribute} is of type {type(value).__name__}, expected a function"
        )
    return value


def identity(path: str) -> str:
    """Return the fingerprint of the file with the callable's module, without its imports.

    Raises :class:`SourceError` when it cannot be found, or its file cannot be read.
    """
    function = find_factory(path)
    module = sys.modules[path.partition(":")[0]]
    try:
        file = Path(inspect.getfile(module))
        return fingerprint.of_files(file.parent, [file])
    except (TypeError, OSError) as error:  # built-in, or deleted
        raise SourceError(
            f"python:{path}: the file of {function} cannot be read: {error}"
        ) from error


def _import_path() -> list[str]:
    return [folder for folder in os.environ.get(IMPORT_PATH, "").split(os.pathsep) if folder]


def _extend_import_path() -> None:
    sys.path += [folder for folder in _import_path() if folder not in sys.path]


def _require_users_own(path: str, module_name: str) -> None:
    """Raise SourceError if an installed package was imported in place of a user's module."""
    top = module_name.partition(".")[0]
    origin = getattr(sys.modules[top], "__file__", None)
    if origin is None:  # a folder without __init__.py may extend over several places
        return
    for folder in map(Path, _import_path()):
        for file in (folder / f"{top}.py", folder / top / "__init__.py"):
            if file.exists():
                if file.resolve() != Path(origin).resolve():
                    raise SourceError(
                        f"python:{path}: `import {top}` finds {origin} before {file}; give your "
                        "module another name"
                    )
                return


def _is_public(name: str, value: object) -> bool:
    return not name.startswith("_") and callable(value)
