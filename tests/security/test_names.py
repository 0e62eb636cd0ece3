"""Names that want to be paths or URLs: refused in every config, and nothing else is touched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact.local import LocalStore
from cluster.config.base import parse
from cluster.config.clients import Client
from cluster.config.recipe import Recipe
from cluster.config.routing import RouterArgs
from cluster.config.serving import ModelArgs
from cluster.errors import ArtifactNotFoundError, ConfigError

Finished = Callable[..., bytes]

NAMES = [
    "../../x", "..", ".", ".hidden", "a/b", "a\\b", "/etc/passwd", "%2e%2e", "%2e%2e%2fx", "a%00b",
    "a\0b", "n" * 1024, "", " ", "a b", "a\n", "a\r\nX-Evil: 1", "naïve", "‮abc", "a;id", "$(id)",
    "`id`", "-rf", "*", "?", "http://elsewhere.example/m", "s3://bucket/m", "hf:someone/model",
    "file:///etc/passwd", "//elsewhere.example/m",
]  # fmt: skip

CONFIGS: dict[str, Callable[[str], object]] = {
    "model": lambda name: parse({"name": name, "artifact": "m"}, ModelArgs, "args"),
    "recipe": lambda name: parse(
        {"name": name, "model": {"source": "torchvision:resnet18"}}, Recipe, "recipe"
    ),
    "route": lambda name: parse(
        {"routes": [{"name": name, "kind": "ensemble", "targets": ["a", "b"]}]}, RouterArgs, "args"
    ),
    "client": lambda name: parse({"name": name, "key": "k" * 16}, Client, "keys"),
}

_watched: list[tuple[str, Any]] | None = None


def _watch(event: str, details: Any) -> None:
    if _watched is not None and (event.startswith("socket.") or event == "open"):
        _watched.append((event, details))


@pytest.fixture(scope="module")
def hook() -> None:
    sys.addaudithook(_watch)  # there is no taking it away: it does nothing while nobody watches


@pytest.fixture
def watched(hook: None) -> Iterator[list[tuple[str, Any]]]:
    """Every socket and file that Python opens meanwhile."""
    global _watched
    _watched = found = []
    try:
        yield found
    finally:
        _watched = None


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_no_config_takes_it_for_a_name(
    config: str, name: str, watched: list[tuple[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match="name"):
        CONFIGS[config](name)
    assert watched == []


@pytest.mark.parametrize("ref", NAMES, ids=lambda ref: repr(ref[:20]))
def test_a_store_finds_no_such_artifact_and_looks_nowhere_else(
    ref: str, tmp_path: Path, finished: Finished, watched: list[tuple[str, Any]]
) -> None:
    store = LocalStore(tmp_path / "store")
    with store.building("a" * 64) as room:
        finished(room / "artifact", name="digits")
        store.publish(room / "artifact")
    (tmp_path / "x").write_text("0" * 64)  # where ../../x of the store's names would lead
    watched.clear()
    with pytest.raises(ArtifactNotFoundError, match="no artifact"):
        store.open(ref)
    assert [event for event, _ in watched if event != "open"] == []
    outside = [path for _, (path, *_) in watched if not str(path).startswith(str(store.root))]
    assert outside == []


def test_the_watch_sees_what_it_is_to_see(watched: list[tuple[str, Any]], tmp_path: Path) -> None:
    import socket

    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", 1)) != 0
    (tmp_path / "f").write_text("")
    events = {event for event, _ in watched}
    assert {"socket.connect", "open"} <= events
