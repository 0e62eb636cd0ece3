"""Reading a config: YAML → plain data → a frozen model, or an error that names the YAML path."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import ConfigError

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""What a model, recipe or artifact name may look like: it becomes part of a URL and of a path."""


class Config(BaseModel):
    """Base of every config: immutable, and a field nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


C = TypeVar("C", bound=Config)


def load(path: Path, kind: type[C]) -> C:
    """Read a YAML file as ``kind``; :class:`ConfigError` names the file, path and value."""
    return parse(read_yaml(path), kind, str(path))


def read_yaml(path: Path) -> Any:
    """The plain data of a YAML file; :class:`ConfigError` if it cannot be read or parsed."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error


def parse(raw: Any, kind: type[C], where: str) -> C:
    """Validate plain data as ``kind``.

    Every problem becomes one line of the :class:`ConfigError`: ``where``, the YAML path, what
    is wrong, and the value that was given.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping of fields, got {type(raw).__name__}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [_problem(problem, kind) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def _problem(problem: Any, kind: type[Config]) -> str:
    # The tag of a discriminated union stands in the location but not in the file.
    location = [part for part in problem["loc"] if part not in ("train", "quantize")]
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = ", ".join(_fields_at(kind, location[:-1]))
        message = f"no such field; known: {known}" if known else "no such field"
    given = problem["input"]
    shown = "" if isinstance(given, dict) else f" (given: {given!r:.100})"
    return f"{path or '(top level)'}: {message}{shown}"


def _fields_at(kind: type[Config], location: list[Any]) -> list[str]:
    """Field names of the config found by following ``location`` from ``kind``."""
    current: type[Config] | None = kind
    for part in location:
        if isinstance(part, int) or current is None:
            return []
        annotation = current.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        current = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, Config)), None
        )
    return list(current.model_fields) if current is not None else []
