"""Reading a config: YAML → plain data → a frozen model, or an error that names the YAML path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from cluster.config.plain_yaml import parse_yaml
from cluster.config.problems import problems
from cluster.errors import ConfigError

NAME_LENGTH = 63
"""Maximum length of a model's name."""

MODEL_NAME = rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH - 1}}}$"
"""Pattern of a model, recipe or artifact name: it becomes part of a URL and of a path."""

BEGINNING_OF_ID = r"[0-9a-f]{8,64}"
"""Pattern of an artifact's id, whole or shortened; no artifact may have such a name."""


def _no_id(name: str) -> str:
    if re.fullmatch(BEGINNING_OF_ID, name):
        raise ValueError(
            "reads like the beginning of an artifact's id; add a letter after f, a dot, a dash or "
            "an underscore"
        )
    return name


ArtifactName = Annotated[str, StringConstraints(pattern=MODEL_NAME), AfterValidator(_no_id)]
"""Name of a recipe and of the artifact that it builds."""


class Config(BaseModel):
    """Base of every config: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def refuse_unused(config: Config, chooser: str, **used_by: tuple[str, ...]) -> None:
    """Raise ValueError for a field that is set without effect.

    ``used_by``: field → values of the field ``chooser`` that use it. A field's default passes, so
    that a config stored in full can be read again.
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


def load(path: Path, kind: type[C], *, secret: bool = False) -> C:
    """Read a YAML file as ``kind``; :class:`ConfigError` names the file, path and value.

    ``secret``: as for :func:`read_yaml`.
    """
    return parse(read_yaml(path, secret=secret), kind, str(path))


def read_yaml(path: Path, *, secret: bool = False) -> Any:
    """Return the plain data of a YAML file; :class:`ConfigError` if it cannot be read or parsed.

    ``secret``: errors show none of its text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_yaml(raw, str(path), secret=secret)


def parse(raw: Any, kind: type[C], where: str) -> C:
    """Validate plain data as ``kind``.

    Every problem becomes one line of the :class:`ConfigError`: ``where``, the YAML path, the
    problem, and the value, unless a field of ``kind`` is secret.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping of fields, got {type(raw).__name__}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = problems(error, raw, kind)
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None
