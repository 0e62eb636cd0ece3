"""YAML → plain data, or a ConfigError that says where it is wrong, and no more if it is secret.

Stricter than PyYAML, which takes the last of a key's values and says nothing of the others.
"""

from __future__ import annotations

from typing import Any

import yaml

from cluster.errors import ConfigError


def parse_yaml(raw: bytes | str, where: str, *, secret: bool = False) -> Any:
    """The plain data of a YAML text (bytes: in UTF-8).

    Raises ConfigError, beginning with ``where``, if it cannot be parsed or gives a key twice.
    ``secret``: the error says line and column, and shows nothing of what stands there.
    """
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: byte {error.start + 1} is not UTF-8; save it as UTF-8"
        ) from None
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        reason = str(error)
        if secret:
            twice = ": a key is given twice" if isinstance(error, _TwiceError) else ""
            reason = _place(error, text) + twice
        raise ConfigError(f"{where}: not valid YAML: {reason}") from None
    except RecursionError:
        raise ConfigError(
            f"{where}: lists or mappings lie too deep in each other; no config needs ten levels"
        ) from None


class _TwiceError(yaml.MarkedYAMLError):
    """A mapping has the key already."""


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here a mapping is as it was written; later, those that it names with << are merged in.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise _TwiceError(
                    problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # What Python raises for the 13th month, 0x_ or !!bool maybe, without saying where it is.
        except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
            raise yaml.constructor.ConstructorError(
                problem=f"no value of its type: {error}", problem_mark=node.start_mark
            ) from None


def _place(error: yaml.YAMLError, text: str) -> str:
    """Where the text is wrong, counted from 1."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line, column = error.problem_mark.line, error.problem_mark.column
    else:  # a character that YAML does not allow
        before = text[: getattr(error, "position", 0)]
        line, column = before.count("\n"), len(before.rpartition("\n")[2])
    return f"line {line + 1}, column {column + 1}"
