"""What is wrong with a config, in words: one line per problem, with the path as it is written.

ValidationError, the data, its class → "routes[2].weight: ... (given: 'heavy'), in 'both'"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

SECRET = object()
"""In the ``Annotated`` of a field: no error shows what was given to its config, nor the name of a
field that it does not have: ``{key:hunter2}``, without a space, is such a name."""

Configs = list[type[BaseModel]]


def problems(error: ValidationError, raw: Any, kind: type[BaseModel]) -> list[str]:
    """The problems of ``raw`` as a ``kind``."""
    found = error.errors(include_url=False)
    told = [each for each in found if _counts(each, found, raw, kind)]
    return list(dict.fromkeys(_line(each, raw, kind) for each in told))


def _counts(problem: Any, all_problems: Sequence[Any], raw: Any, kind: type[BaseModel]) -> bool:
    """Whether it says something that none of the others says better."""
    if problem["type"] == "too_short":  # what was refused is missing from a list
        here = problem["loc"]
        return not any(o is not problem and o["loc"][: len(here)] == here for o in all_problems)
    # Where a word or something else may stand: who gave a word is told of the words.
    path = _written(problem, raw, kind)
    same = [each for each in all_problems if _written(each, raw, kind) == path]
    words = [each for each in same if each["type"] == "literal_error"]
    if not words or len(words) == len(same):
        return True
    return (problem in words) == isinstance(words[0]["input"], str)


def _line(problem: Any, raw: Any, kind: type[BaseModel]) -> str:
    path, name = _written(problem, raw, kind)
    secret = _holds_secret(kind)
    configs = _expected(problem["loc"], kind)
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    if problem["type"] == "extra_forbidden":
        holders = _expected(problem["loc"][:-1], kind)
        known = ", ".join(name for holder in holders for name in holder.model_fields)
        message = f"no such field; known: {known}"
        if secret:
            path, name = _written({**problem, "loc": problem["loc"][:-1]}, raw, kind)
            message = f"a field that there is not; known: {known}"
    elif problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        field = problem["ctx"]["discriminator"].strip("'")
        path = f"{path}.{field}"
        allowed = ", ".join(repr(value) for each in configs for value in _values(each, field))
        if field in given:
            given, message = given[field], f"expected one of {allowed}"
        else:
            message = f"Field required, one of {allowed}"
    shown = f" (given: {given!r:.100})"
    if isinstance(given, dict) or secret:
        shown = ""
    # A name, too, may be a key that was put into the wrong field.
    named = name is not None and name not in message and not secret
    of = f", in {name!r}" if named else ""
    return f"{path or '(top level)'}: {message}{shown}{of}"


def _written(problem: Any, raw: Any, kind: type[BaseModel]) -> tuple[str, str | None]:
    """The path of a problem in the data as it is written, and the name of what it lies in."""
    path, name, here = "", None, raw
    location = problem["loc"]
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(part, str) and len(_expected(location[:index], kind)) > 1:
            continue  # what told several classes apart
        if isinstance(part, int) and isinstance(here, list | tuple) and part < len(here):
            path, here = f"{path}[{part}]", here[part]
        elif isinstance(here, dict) and part in here:
            path, here = f"{path}.{part}" if path else part, here[part]
        elif last and problem["type"] == "missing":
            path = f"{path}.{part}" if path else str(part)
        else:
            continue  # which of several types was tried, or a short form written out
        if not last and isinstance(here, dict) and isinstance(here.get("name"), str):
            name = here["name"]
    return path, name


def _expected(location: Sequence[int | str], kind: type[BaseModel]) -> Configs:
    """The configs that may stand at a location."""
    configs = [kind]
    for part in location:
        if isinstance(part, int):
            continue
        if len(configs) > 1:
            # What told these apart, a value or the class: it stands here, not in the data.
            configs = [c for c in configs if part == c.__name__ or _has_value(c, part)]
        else:
            field = configs[0].model_fields.get(part) if configs else None
            configs = _configs_in(field.annotation) if field else []
    return configs


def _configs_in(annotation: Any) -> Configs:
    """The configs that an annotation names, itself or inside a list or union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [config for inner in get_args(annotation) for config in _configs_in(inner)]


def _holds_secret(annotation: Any) -> bool:
    """Whether what stands there is secret, or a part of it."""
    if annotation is SECRET:
        return True
    inner = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = tuple(field.annotation for field in annotation.model_fields.values())
    return any(_holds_secret(each) for each in inner)


def _has_value(config: type[BaseModel], value: object) -> bool:
    """Whether any ``Literal`` field allows the value."""
    return any(value in _values(config, field) for field in config.model_fields)


def _values(config: type[BaseModel], field: str) -> tuple[Any, ...]:
    """What a ``Literal`` field allows; nothing for any other."""
    annotation = config.model_fields[field].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()
