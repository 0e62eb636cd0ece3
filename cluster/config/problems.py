"""Problems of a config as text: one line per problem, with the path as written.

ValidationError, the data, its class → "routes[2].weight: ... (given: 'heavy'), in 'both'"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

SECRET = object()
"""Mark in the ``Annotated`` of a field: no error shows values of its config, nor names of unknown
fields: ``{key:hunter2}``, without a space, is such a name."""

Configs = list[type[BaseModel]]


def problems(error: ValidationError, raw: Any, kind: type[BaseModel]) -> list[str]:
    """Return one line for each problem of ``raw`` as a ``kind``."""
    errors = error.errors(include_url=False)
    relevant = [problem for problem in errors if _is_relevant(problem, errors, raw, kind)]
    return list(dict.fromkeys(_line(problem, raw, kind) for problem in relevant))


def _is_relevant(
    problem: Any, all_problems: Sequence[Any], raw: Any, kind: type[BaseModel]
) -> bool:
    """Return whether no other problem describes the same mistake better."""
    if problem["type"] == "too_short":  # pydantic omits refused items from a list
        here = problem["loc"]
        return not any(o is not problem and o["loc"][: len(here)] == here for o in all_problems)
    # If a field allows words or another type, a wrong word is compared with the words.
    path = _written(problem, raw, kind)
    same = [other for other in all_problems if _written(other, raw, kind) == path]
    words = [other for other in same if other["type"] == "literal_error"]
    if not words or len(words) == len(same):
        return True
    return (problem in words) == isinstance(words[0]["input"], str)


def _line(problem: Any, raw: Any, kind: type[BaseModel]) -> str:
    path, name = _written(problem, raw, kind)
    secret = _holds_secret(kind)
    configs = _expected(problem["loc"], kind)
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    if problem["type"] == "extra_forbidden":
        holders = _expected(problem["loc"][:-1], kind)
        known = ", ".join(name for holder in holders for name in holder.model_fields)
        message = f"unknown field; known: {known}"
        if secret:
            path, name = _written({**problem, "loc": problem["loc"][:-1]}, raw, kind)
            message = f"has an unknown field; known: {known}"
    elif problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        field = problem["ctx"]["discriminator"].strip("'")
        path = f"{path}.{field}"
        allowed = ", ".join(repr(name) for config in configs for name in _values(config, field))
        if field in value:
            value, message = value[field], f"expected one of {allowed}"
        else:
            message = f"Field required, one of {allowed}"
    suffix = f" (given: {value!r:.100})"
    if isinstance(value, dict) or secret:
        suffix = ""
    # A name may be a key in the wrong field, so a secret config shows none.
    named = name is not None and name not in message and not secret
    owner = f", in {name!r}" if named else ""
    return f"{path or '(top level)'}: {message}{suffix}{owner}"


def _written(problem: Any, raw: Any, kind: type[BaseModel]) -> tuple[str, str | None]:
    """Return the path of a problem in the data as written, and the name of its innermost parent."""
    path, name, here = "", None, raw
    location = problem["loc"]
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(part, str) and len(_expected(location[:index], kind)) > 1:
            continue  # the discriminator of several classes
        if isinstance(part, int) and isinstance(here, list | tuple) and part < len(here):
            path, here = f"{path}[{part}]", here[part]
        elif isinstance(here, dict) and part in here:
            path, here = f"{path}.{part}" if path else part, here[part]
        elif last and problem["type"] == "missing":
            path = f"{path}.{part}" if path else str(part)
        else:
            continue  # the tried type of a union, or an expanded short form
        if not last and isinstance(here, dict) and isinstance(here.get("name"), str):
            name = here["name"]
    return path, name


def _expected(location: Sequence[int | str], kind: type[BaseModel]) -> Configs:
    """Return the config classes that are allowed at a location."""
    configs = [kind]
    for part in location:
        if isinstance(part, int):
            continue
        if len(configs) > 1:
            # The discriminator, a value or the class, is in the location but not in the data.
            configs = [c for c in configs if part == c.__name__ or _has_value(c, part)]
        else:
            field = configs[0].model_fields.get(part) if configs else None
            configs = _configs_in(field.annotation) if field else []
    return configs


def _configs_in(annotation: Any) -> Configs:
    """Return the config classes in an annotation, also inside a list or union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [config for inner in get_args(annotation) for config in _configs_in(inner)]


def _holds_secret(annotation: Any) -> bool:
    """Return whether a value of the annotation, or a part of it, is secret."""
    if annotation is SECRET:
        return True
    inner = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = tuple(field.annotation for field in annotation.model_fields.values())
    return any(_holds_secret(argument) for argument in inner)


def _has_value(config: type[BaseModel], value: object) -> bool:
    """Return whether any ``Literal`` field allows the value."""
    return any(value in _values(config, field) for field in config.model_fields)


def _values(config: type[BaseModel], field: str) -> tuple[Any, ...]:
    """Return the values of a ``Literal`` field; empty for other fields."""
    annotation = config.model_fields[field].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()
