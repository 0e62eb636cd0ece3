"""Fields and types of an object, checked as the API server would check them.

object → defaults of its kind → JSON Schema → one line per problem: path, given, expected; for an
                                              unknown field the nearest known one
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

Object = dict[str, Any]

FILE = Path(__file__).with_name("schemas.json.gz")
"""Made by derive_schemas.py."""


@cache
def schemas() -> dict[str, Any]:
    """Return ``{"kinds": {"ray.io/v1/RayService": ref, ...}, "$defs": {...}}``."""
    loaded: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))
    return loaded


def kind_key(obj: Object) -> str:
    """Return an object's version and kind: ``ray.io/v1/RayService``."""
    return f"{obj.get('apiVersion')}/{obj.get('kind')}"


def has_schema(obj: Object) -> bool:
    """Return whether the object's kind has a schema here."""
    return kind_key(obj) in schemas()["kinds"]


def object_name(obj: Object) -> str:
    """Return an object's kind and name, as messages show it: ``RayService/headrace``."""
    return f"{obj.get('kind')}/{(obj.get('metadata') or {}).get('name')}"


def with_defaults(obj: Object) -> Object:
    """Return a copy with the API server's defaults; unchanged if the kind has no schema."""
    filled = copy.deepcopy(obj)
    if has_schema(obj):
        _fill(filled, schemas()["kinds"][kind_key(obj)])
    return filled


def problems(obj: Object) -> list[str]:
    """Return one line per wrong field or type.

    A kind of another project's group, such as Kueue's, has no schema and no problems. A group whose
    name is nearly a known one is a problem.
    """
    if not has_schema(obj):
        return [f"{object_name(obj)}: {line}" for line in _unknown_kind(obj)]
    lines = [
        f"{object_name(obj)}: {line}"
        for error in _validator(kind_key(obj)).iter_errors(with_defaults(obj))
        for line in _lines(error)
    ]
    return sorted(set(lines))


def path_text(path: Any) -> str:
    """Return a path as YAML tools write it: ``spec.groups[0].name``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "(top level)"


def _unknown_kind(obj: Object) -> Iterator[str]:
    """Yield the problem of a kind without a schema, unless its group is another project's."""
    kind, version = str(obj.get("kind")), str(obj.get("apiVersion"))
    group = version.rpartition("/")[0]
    groups: dict[str, dict[str, str]] = {}  # group → kind → version
    for key in schemas()["kinds"]:
        known_version, _, known_kind = key.rpartition("/")
        groups.setdefault(known_version.rpartition("/")[0], {})[known_kind] = known_version
    if group not in groups:
        if near := get_close_matches(group, [name for name in groups if name], 1, 0.88):
            yield f"apiVersion: unknown API group {group}; did you mean {near[0]}?"
    elif kind in groups[group]:
        yield f"apiVersion: must be {groups[group][kind]} (given: {version})"
    else:
        yield f"kind: unknown kind in {version}; {_hint(kind, sorted(groups[group]))}"


def _hint(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def _keys(validator: Any, keys: list[str], items: Any, schema: Object) -> Iterator[ValidationError]:
    """Check ``x-keys``: no two entries of a list have equal values in these fields."""
    seen: list[list[Any]] = []
    for item in items if isinstance(items, list) else []:
        values = [item.get(key) for key in keys] if isinstance(item, dict) else [item]
        if values in seen:
            shown = ", ".join(f"{k} {v!r}" for k, v in zip(keys, values, strict=False) if v)
            yield ValidationError(f"duplicate entries with {shown}; keep one")
        seen.append(values)


_Validator = extend(Draft202012Validator, {"x-keys": _keys})


@cache
def _validator(kind: str) -> Any:
    return _Validator({**schemas()["kinds"][kind], "$defs": schemas()["$defs"]})


def _lines(error: ValidationError) -> Iterator[str]:
    """Yield one line per problem: path, expected, given."""
    path = path_text(error.absolute_path)
    expected, given = error.validator_value, f"(given: {error.instance!r:.60})"
    match error.validator:
        case "additionalProperties" if isinstance(error.instance, dict):
            known = sorted(error.schema["properties"])
            for field in error.instance:
                if field not in known:
                    where = path_text([*error.absolute_path, field])
                    yield f"{where}: unknown field; {_hint(str(field), known)}"
        case "required" if isinstance(error.instance, dict):
            for field in expected:
                if field not in error.instance:
                    yield f"{path_text([*error.absolute_path, field])}: required field is missing"
        case "type":
            types = dict.fromkeys([expected] if isinstance(expected, str) else expected)
            yield f"{path}: must be {' or '.join(t for t in types if t != 'null')} {given}"
        case "enum":
            yield f"{path}: must be one of {', '.join(map(str, expected))} {given}"
        case "minimum":
            yield f"{path}: must be at least {expected} {given}"
        case "maximum":
            yield f"{path}: must be at most {expected} {given}"
        case _:
            yield f"{path}: {error.message:.200}"


def _fill(value: Any, schema: Object) -> None:
    """Put the defaults of a schema into a value, at all depths."""
    while "$ref" in schema:
        schema = schemas()["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, dict):
        for field, field_schema in schema.get("properties", {}).items():
            if field not in value and (default := _default(field_schema)) is not None:
                value[field] = copy.deepcopy(default)
            if field in value:
                _fill(value[field], field_schema)
        values_schema = schema.get("additionalProperties")
        if isinstance(values_schema, dict):
            for item in value.values():
                _fill(item, values_schema)
    elif isinstance(value, list) and "items" in schema:
        for item in value:
            _fill(item, schema["items"])


def _default(schema: Object) -> Any:
    while "$ref" in schema and "default" not in schema:
        schema = schemas()["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema.get("default")
