"""An object's fields and types, as the API server would take them, without one.

object → defaults of its kind → JSON Schema → one line per problem, with the path and, for a
                                              field nobody knows, the nearest that there is
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from deployments.kubernetes.schemas import schemas

Object = dict[str, Any]


def key(obj: Object) -> str:
    """Which kind it is: ``ray.io/v1/RayService``."""
    return f"{obj.get('apiVersion')}/{obj.get('kind')}"


def known(obj: Object) -> bool:
    """If there is a schema for its kind here."""
    return key(obj) in schemas()["kinds"]


def name(obj: Object) -> str:
    """How messages call it: ``RayService/headrace``."""
    return f"{obj.get('kind')}/{(obj.get('metadata') or {}).get('name')}"


def defaulted(obj: Object) -> Object:
    """A copy with what the API server would fill in; of an unknown kind as it is."""
    filled = copy.deepcopy(obj)
    if known(obj):
        _fill(filled, schemas()["kinds"][key(obj)])
    return filled


def problems(obj: Object) -> list[str]:
    """What is wrong with its fields and types, a line each.

    A kind of a group that is none of ours, such as Kueue's, cannot be checked: nothing is wrong
    with it, unless the group's name is nearly one of ours.
    """
    if not known(obj):
        return [f"{name(obj)}: {line}" for line in _unknown(obj)]
    lines = [
        f"{name(obj)}: {line}"
        for error in _validator(key(obj)).iter_errors(defaulted(obj))
        for line in _lines(error)
    ]
    return sorted(set(lines))


def _unknown(obj: Object) -> Iterator[str]:
    """Why there is no schema for its kind, if that is not because the group is another's."""
    kind, version = str(obj.get("kind")), str(obj.get("apiVersion"))
    group = version.rpartition("/")[0]
    kinds: dict[str, dict[str, str]] = {}  # group → kind → version
    for each in schemas()["kinds"]:
        known_version, _, known_kind = each.rpartition("/")
        kinds.setdefault(known_version.rpartition("/")[0], {})[known_kind] = known_version
    if group not in kinds:
        if near := get_close_matches(group, [each for each in kinds if each], 1, 0.88):
            yield f"no such group: {group}; did you mean {near[0]}?"
    elif kind in kinds[group]:
        yield f"apiVersion: must be {kinds[group][kind]} (given: {version})"
    else:
        near = get_close_matches(kind, kinds[group], 1, 0.6)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(kinds[group]))}"
        yield f"no such kind in {version}; {hint}"


def _keys(validator: Any, keys: list[str], items: Any, schema: Object) -> Iterator[ValidationError]:
    """``x-keys``: no two entries of a list have the same values in these fields."""
    seen: list[list[Any]] = []
    for item in items if isinstance(items, list) else []:
        values = [item.get(each) for each in keys] if isinstance(item, dict) else [item]
        if values in seen:
            shown = ", ".join(f"{k} {v!r}" for k, v in zip(keys, values, strict=False) if v)
            yield ValidationError(f"two entries with {shown}; keep one")
        seen.append(values)


_Validator = extend(Draft202012Validator, {"x-keys": _keys})


@cache
def _validator(kind: str) -> Any:
    return _Validator({**schemas()["kinds"][kind], "$defs": schemas()["$defs"]})


def _lines(error: ValidationError) -> Iterator[str]:
    path = where(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        allowed = sorted(error.schema["properties"])
        for field in error.instance:
            if field not in allowed:
                near = get_close_matches(field, allowed, 1, 0.6)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(allowed)}"
                yield f"{where([*error.absolute_path, field])}: no such field; {hint}"
    elif error.validator == "type":
        kinds = error.validator_value
        named = dict.fromkeys([kinds] if isinstance(kinds, str) else kinds)
        wanted = " or ".join(each for each in named if each != "null")
        yield f"{path}: must be {wanted} (given: {error.instance!r:.60})"
    elif error.validator == "enum":
        listed = ", ".join(map(str, error.validator_value))
        yield f"{path}: must be one of {listed} (given: {error.instance!r:.60})"
    else:
        yield f"{path}: {error.message:.200}"


def where(path: Any) -> str:
    """A path as YAML tools write it: ``spec.groups[0].name``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "(top level)"


def _fill(value: Any, schema: Object) -> None:
    while "$ref" in schema:
        schema = schemas()["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, dict):
        for field, each in schema.get("properties", {}).items():
            if field not in value and (default := _default(each)) is not None:
                value[field] = copy.deepcopy(default)
            if field in value:
                _fill(value[field], each)
        more = schema.get("additionalProperties")
        if isinstance(more, dict):
            for each in value.values():
                _fill(each, more)
    elif isinstance(value, list) and "items" in schema:
        for each in value:
            _fill(each, schema["items"])


def _default(schema: Object) -> Any:
    while "$ref" in schema and "default" not in schema:
        schema = schemas()["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema.get("default")
