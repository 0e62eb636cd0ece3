"""YAML 1.2 as plain data, and plain data as YAML.

    text → parse_yaml → data, or a ConfigError with the line and column
    data → format_yaml → text

Only YAML's own types are read: no tag creates an object or runs code. A duplicate key in a mapping
is an error. YAML 1.2 reads ``no`` and ``on`` as text and ``017`` as 17, so a class may be called
``no``; boolean fields accept these words, too.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MantissaNoDotYAML1_1Warning, MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import Node
from ruamel.yaml.scanner import Scanner, ScannerError

from cluster.errors import ConfigError

MAX_BRACKETS = 100


def parse_yaml(raw: bytes | str, where: str, *, secret: bool = False) -> Any:
    """Return the plain data of a YAML text (bytes: in UTF-8).

    ConfigError, beginning with ``where``, if the text is not valid or has a duplicate key.
    ``secret``: the error has the line and column, and repeats nothing of the text.
    """
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: byte {error.start + 1} is not UTF-8; save it as UTF-8"
        ) from None
    yaml = YAML(typ="safe", pure=True)  # the C parser is optional, and words its errors differently
    yaml.Constructor = _Constructor
    yaml.Scanner = _Scanner
    try:
        # A text that declares YAML 1.1 may warn of a number, and the warning repeats it.
        with warnings.catch_warnings(action="ignore", category=MantissaNoDotYAML1_1Warning):
            return yaml.load(text)
    except YAMLError as error:
        raise ConfigError(
            f"{where}: not valid YAML: {_reason(error, text, secret=secret)}"
        ) from None
    except RecursionError:
        raise ConfigError(
            f"{where}: lists or mappings are nested too deeply; no config needs ten levels"
        ) from None


def format_yaml(data: Any) -> str:
    """Return plain data as YAML that :func:`parse_yaml` reads, keys in their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # its type is None
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()


class _Scanner(Scanner):
    """Scanner with a limit on nested brackets, whose cost grows with the square of the depth."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:  # noqa: N803
        if self.flow_level >= MAX_BRACKETS:
            raise ScannerError(
                problem=f"more than {MAX_BRACKETS} brackets are open; no config needs ten",
                problem_mark=self.reader.get_mark(),
            )
        super().fetch_flow_collection_start(TokenClass, to_push)


class _Constructor(SafeConstructor):
    """Safe constructor that adds a place to Python's errors for a value."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # Python's errors, such as for month 13, 0x_ or !!bool maybe, have no place.
        except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
            raise ConstructorError(
                problem=f"no value of its type: {error}", problem_mark=node.start_mark
            ) from None


def _reason(error: YAMLError, text: str, *, secret: bool) -> str:
    place = _place(error, text)
    if not isinstance(error, DuplicateKeyError):
        return place if secret else str(error)
    # 'found duplicate key "a" with value ...': the values may be long, or secret.
    key = str(error.problem).removeprefix("found duplicate ").partition(" with value ")[0]
    return f"{place}: duplicate key" if secret else f"{place}: duplicate {key}; remove one of them"


def _place(error: YAMLError, text: str) -> str:
    """Return the place of the mistake, counted from 1."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        line, column = error.problem_mark.line, error.problem_mark.column
    else:  # a character that YAML does not allow
        before = text[: getattr(error, "position", 0)]
        line, column = before.count("\n"), len(before.rpartition("\n")[2])
    return f"line {line + 1}, column {column + 1}"
