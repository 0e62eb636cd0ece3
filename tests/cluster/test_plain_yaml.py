"""YAML as plain data: errors have a place and repeat no secret, and no tag makes an object."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from cluster.config.base import read_yaml
from cluster.config.plain_yaml import format_yaml, parse_yaml
from cluster.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("a: [", "expected the node content", "line 1, column 5"),
        ("a: 1\nb: 2024-13-45", "month must be in 1..12", "line 2, column 4"),
        ("a: 0x_", "invalid literal for int", "line 1, column 4"),
        ("a: !!bool maybe", "no value of its type", "line 1, column 4"),
        ("a: !!int ''", "no value of its type", "line 1, column 4"),
        ("a: !!timestamp soon", "failed to construct timestamp", "line 1, column 4"),
        ("a: " + "9" * 5000, "no value of its type", "line 1, column 4"),
        ("a: !!python/name:os.system x", "could not determine a constructor", "line 1, column 4"),
        ("a: 1\nb: \x01", "special characters are not allowed", "line 2, column 4"),
        ("a: 1\nb: \ud800", "special characters are not allowed", "line 2, column 4"),
        ("a: 1\nb: 2\na: 3", 'duplicate key "a"; remove one', "line 3, column 1: duplicate key"),
        ('a: {x: 1, "x": 2}', 'duplicate key "x"; remove one', "line 1, column 11: duplicate key"),
        ("{1: a, true: b}", 'duplicate key "True"; remove one', "line 1, column 8: duplicate key"),
        ("a: !own {x: 1}", "could not determine a constructor", "line 1, column 4"),
        ("a: 1\n---\nb: 2", "expected a single document", "line 2, column 1"),
        ("- *nowhere", "found undefined alias 'nowhere'", "line 1, column 3"),
    ],
)
def test_error_has_a_place_and_repeats_no_secret(text: str, message: str, place: str) -> None:
    with pytest.raises(ConfigError, match=f"^here: not valid YAML: (.|\n)*{message}"):
        parse_yaml(text, "here")
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "here", secret=True)
    assert str(error.value).startswith(f"here: not valid YAML: {place}")
    assert message not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 20_000, "{a: " * 20_000, "a: " + "- " * 20_000])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"here: (lists or mappings are nested too deeply|not valid YAML)"
    ):
        parse_yaml(text, "here")


def test_invalid_utf_8_is_located(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes("é: \xff".encode("latin-1"))
    with pytest.raises(ConfigError, match=f"{file}: byte 1 is not UTF-8; save it as UTF-8"):
        read_yaml(file)
    file.write_bytes("é: ü".encode())
    assert read_yaml(file) == {"é": "ü"}


def test_merged_keys_are_no_duplicates() -> None:
    text = """
    base: &base {x: 1, y: 2}
    more: {<<: *base, y: 3}
    again: [*base, {<<: *base, x: 4}]
    """
    data = parse_yaml(text, "here")
    assert data["more"] == {"x": 1, "y": 3}
    assert data["again"] == [{"x": 1, "y": 2}, {"x": 4, "y": 2}]


@pytest.mark.parametrize("text", ["key: {hunter2: swordfish, hunter2: swordfish}", "key: [hunter2"])
def test_secret_error_repeats_nothing_of_the_text(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "keys", secret=True)
    assert not re.search("hunter2|swordfish", str(error.value))


def test_words_and_leading_zeros_follow_yaml_1_2() -> None:
    assert parse_yaml("[no, on, y, 017, 1e-3, true, ~]", "here") == [
        "no",
        "on",
        "y",
        17,
        0.001,
        True,
        None,
    ]


def test_yaml_1_1_text_raises_no_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        assert parse_yaml("%YAML 1.1\n---\na: 1e3", "here") == {"a": 1000.0}
    assert not caught


def test_formatted_data_reads_back() -> None:
    data = {
        "z": ["no", "017", "1e3", "2024-01-02", "", "a: b", "é\n\x07", "word " * 40],
        "a": {"none": None, "tiny": 1e-9, "huge": 1e22, "yes": True, "empty": {}, "no": []},
    }
    assert parse_yaml(format_yaml(data), "here") == data
    assert format_yaml({"z": 1, "a": [2.5]}) == "z: 1\na:\n- 2.5\n"
