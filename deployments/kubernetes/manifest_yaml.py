"""YAML of manifests, as kubectl and KubeRay's operator read it.

manifest, CRD, Serve config in a RayService → load → plain data
plain data → dump → text that every reader understands alike

Both read with go-yaml v2, whose dialect is between YAML 1.1 and 1.2: ``y`` is true as in neither,
``1e3`` a number and ``1:20`` text as in 1.2, ``010`` is 8 as in 1.1. Recipes and Serve configs for
``headrace up`` are YAML 1.2 (:mod:`cluster.config.plain_yaml`).

Source: ``goyaml.v2/resolve.go`` and ``yaml.go`` of sigs.k8s.io/yaml.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import yaml

from cluster.errors import ConfigError

_PREFIX = "tag:yaml.org,2002:"
_TEXT = f"{_PREFIX}str"

_WORDS = {
    word: kind
    for kind, words in {
        "bool": "y Y yes Yes YES on On ON true True TRUE "
        "n N no No NO off Off OFF false False FALSE",
        "null": "~ null Null NULL",
        "float": ".nan .NaN .NAN .inf .Inf .INF +.inf +.Inf +.INF -.inf -.Inf -.INF",
        "merge": "<<",
    }.items()
    for word in words.split()
} | {"": "null"}
_TRUE = "yto"
"""First letters of the true words; ``off`` is the exception."""

_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+|0[0-7]*|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LIKE_NUMBER = re.compile(r"[-+]?[.0-9][-+.:_0-9a-fA-FxXoO]*")
"""Text that some reader may take for a number: `12e45678` is infinite in YAML 1.2, `._0` zero."""

_OCTAL = re.compile(r"^([-+]?)0(?=[0-7])")


def load(text: str, where: str) -> Any:
    """Return the data of one document; ConfigError, beginning with ``where``, if it is invalid."""
    documents = load_all(text, where)
    if len(documents) > 1:
        raise ConfigError(f"{where}: must be one YAML document (given: {len(documents)})")
    return documents[0] if documents else None


def load_all(text: str, where: str) -> list[Any]:
    """Return the data of all documents; ConfigError as :func:`load`."""
    try:
        return list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None


def dump(data: Any) -> str:
    """Return data as YAML with keys in their order; text of several lines stays readable.

    Text is quoted if any of the dialects would read it as another type.
    """
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _type(text: str) -> str:
    """Return the type of a plain scalar, as the end of its tag; timestamps are text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] == ".":
        return "float" if _FLOAT.fullmatch(text) else "str"
    if text[0] not in "+-0123456789":
        return "str"
    digits = text.replace("_", "")
    if _INTEGER.fullmatch(digits):
        return "int"
    # A number that is too large for 64 bits is text.
    return "float" if _FLOAT.fullmatch(digits) and math.isfinite(float(digits)) else "str"


def _integer(digits: str) -> int:
    return int(_OCTAL.sub(r"\g<1>0o", digits), 0)


class _Loader(yaml.CSafeLoader):
    """Reader whose plain scalars have the types of go-yaml, and whose keys are text, as in JSON."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0]:
            return _PREFIX + _type(value)
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        return {
            json.dumps(key) if isinstance(key, bool | int | float) else key: value
            for key, value in mapping.items()
        }

    def construct_bool(self, node: Any) -> bool:
        return node.value.lower() != "off" and node.value[0].lower() in _TRUE

    def construct_int(self, node: Any) -> int:
        return _integer(node.value.replace("_", ""))

    def construct_text(self, node: Any) -> str:
        return str(self.construct_scalar(node))


_Loader.add_constructor(f"{_PREFIX}bool", _Loader.construct_bool)
_Loader.add_constructor(f"{_PREFIX}int", _Loader.construct_int)
_Loader.add_constructor(f"{_PREFIX}merge", _Loader.construct_text)  # `<<` that is no key


class _Dumper(yaml.SafeDumper):
    """Writer that quotes text of which a reader of YAML 1.1, 1.2 or of go-yaml would make more."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        # The type in YAML 1.1.
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        if kind is yaml.ScalarNode and implicit[0] and tag == _TEXT:
            return f"{_PREFIX}float" if _LIKE_NUMBER.fullmatch(value) else _PREFIX + _type(value)
        return tag

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar(_TEXT, text, "|" if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)
