"""YAML that cannot be a config: an error with the place, and nothing of a secret in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config.base import read_yaml
from cluster.config.plain_yaml import parse_yaml
from cluster.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("a: [", "expected the node content", "line 1, column 5"),
        ("a: 1\nb: 2024-13-45", "month must be in 1..12", "line 2, column 4"),
        ("a: 0x_", "invalid literal for int", "line 1, column 4"),
        ("a: !!bool maybe", "no value of its type", "line 1, column 4"),
        ("a: !!int ''", "no value of its type", "line 1, column 4"),
        ("a: !!timestamp soon", "no value of its type", "line 1, column 4"),
        ("a: " + "9" * 5000, "no value of its type", "line 1, column 4"),
        ("a: !!python/name:os.system x", "could not determine a constructor", "line 1, column 4"),
        ("a: 1\nb: \x01", "special characters are not allowed", "line 2, column 4"),
        ("a: 1\nb: \ud800", "special characters are not allowed", "line 2, column 4"),
        (
            "a: 1\nb: 2\na: 3",
            "the key 'a' is given twice",
            "line 3, column 1: a key is given twice",
        ),
        ('a: {x: 1, "x": 2}', "the key 'x' is given twice", "line 1, column 11: a key is given"),
        ("- *nowhere", "found undefined alias 'nowhere'", "line 1, column 3"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, message: str, place: str) -> None:
    with pytest.raises(ConfigError, match=f"^here: not valid YAML: (.|\n)*{message}"):
        parse_yaml(text, "here")
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "here", secret=True)
    assert str(error.value).startswith(f"here: not valid YAML: {place}")
    assert message not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 20_000, "{a: " * 20_000, "a: " + "- " * 20_000])
def test_what_lies_too_deep_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"here: (lists or mappings lie too deep|not valid YAML)"):
        parse_yaml(text, "here")


def test_bytes_that_are_not_utf_8_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes("é: \xff".encode("latin-1"))
    with pytest.raises(ConfigError, match=f"{file}: byte 1 is not UTF-8; save it as UTF-8"):
        read_yaml(file)
    file.write_bytes("é: ü".encode())
    assert read_yaml(file) == {"é": "ü"}


def test_keys_that_are_merged_in_are_given_once() -> None:
    text = """
    base: &base {x: 1, y: 2}
    more: {<<: *base, y: 3}
    again: [*base, {<<: *base, x: 4}]
    """
    found = parse_yaml(text, "here")
    assert found["more"] == {"x": 1, "y": 3}
    assert found["again"] == [{"x": 1, "y": 2}, {"x": 4, "y": 2}]
