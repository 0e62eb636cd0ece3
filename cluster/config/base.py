"""Reading a config: YAML → plain data → a frozen model, or an error that names the YAML path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import ConfigError

NAME_LENGTH = 63
"""Characters of a model's name, at most."""

MODEL_NAME = rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH - 1}}}$"
"""What a model, recipe or artifact name may look like: it becomes part of a URL and of a path."""


SECRET = object()
"""In the ``Annotated`` of a field: no error shows what was given to its config."""


class Config(BaseModel):
    """Base of every config: immutable, and a field nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def refuse_unused(config: Config, chooser: str, **used_by: tuple[str, ...]) -> None:
    """ValueError, naming it, for a field that was set to no effect.

    ``used_by``: field → values of the field ``chooser`` that use it. A field's default passes:
    a config that was written out in full can be read again.
    """
    chosen = getattr(config, chooser)
    for name, users in used_by.items():
        default = type(config).model_fields[name].default
        if chosen not in users and getattr(config, name) != default:
            raise ValueError(
                f"{name} goes with {chooser} {' or '.join(users)}, not with {chosen}, where it has "
                f"no effect; remove {name}"
            )


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
    is wrong, and the value that was given, unless a field of ``kind`` is secret.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping of fields, got {type(raw).__name__}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [_problem(problem, kind) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def _problem(problem: Any, kind: type[Config]) -> str:
    path, configs = _followed(problem["loc"], kind)
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    if problem["type"] == "extra_forbidden":
        _, holders = _followed(problem["loc"][:-1], kind)
        known = ", ".join(name for holder in holders for name in holder.model_fields)
        message = f"no such field; known: {known}"
    elif problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        field = problem["ctx"]["discriminator"].strip("'")
        path = f"{path}.{field}"
        allowed = ", ".join(repr(value) for each in configs for value in _values(each, field))
        if field in given:
            given, message = given[field], f"expected one of {allowed}"
        else:
            message = f"Field required, one of {allowed}"
    shown = f" (given: {given!r:.100})"
    if isinstance(given, dict) or _holds_secret(kind):
        shown = ""
    return f"{path or '(top level)'}: {message}{shown}"


def _followed(location: Sequence[int | str], kind: type[Config]) -> tuple[str, list[type[Config]]]:
    """The YAML path of an error's location in ``kind``, and the configs that may stand there."""
    path = ""
    configs = [kind]
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif len(configs) > 1:
            # What told these apart, a value or the class: it stands here, not in the file.
            configs = [c for c in configs if part == c.__name__ or _has_value(c, part)]
        else:
            path += f".{part}" if path else part
            field = configs[0].model_fields.get(part) if configs else None
            configs = _configs_in(field.annotation) if field else []
    return path, configs


def _configs_in(annotation: Any) -> list[type[Config]]:
    """The configs that an annotation names, itself or inside a list or union."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [config for inner in get_args(annotation) for config in _configs_in(inner)]


def _holds_secret(annotation: Any) -> bool:
    """Whether what stands there is secret, or a part of it."""
    if annotation is SECRET:
        return True
    inner = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Config):
        inner = tuple(field.annotation for field in annotation.model_fields.values())
    return any(_holds_secret(each) for each in inner)


def _has_value(config: type[Config], value: object) -> bool:
    """Whether any ``Literal`` field allows the value."""
    return any(value in _values(config, field) for field in config.model_fields)


def _values(config: type[Config], field: str) -> tuple[Any, ...]:
    """What a ``Literal`` field allows; nothing for any other."""
    annotation = config.model_fields[field].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()
