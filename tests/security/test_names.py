"""Names in the form of paths or URLs: refused in every config, without file access."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import references
from cluster.artifact.local import LocalStore
from cluster.artifact.remote import RemoteStore
from cluster.artifact.store import ArtifactStore
from cluster.config.base import parse
from cluster.config.clients import Client
from cluster.config.recipe import Recipe
from cluster.config.routing import RouterArgs
from cluster.config.serving import ModelArgs
from cluster.errors import ArtifactError, ArtifactNotFoundError, ConfigError

Finished = Callable[..., bytes]

NAMES = [
    "../../x",
    "..",
    ".",
    ".hidden",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "%2e%2e",
    "%2e%2e%2fx",
    "a%00b",
    "a\0b",
    "n" * 1024,
    "",
    " ",
    "a b",
    "a\n",
    "a\r\nX-Evil: 1",
    "naïve",
    "‮abc",
    "a;id",
    "$(id)",
    "`id`",
    "-rf",
    "*",
    "?",
    "http://elsewhere.example/m",
    "s3://bucket/m",
    "hf:someone/model",
    "file:///etc/passwd",
    "//elsewhere.example/m",
]

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

FILE_EVENTS = {
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.rmdir",
    "os.truncate",
}

_watched: list[tuple[str, Any]] | None = None


def _watch(event: str, details: Any) -> None:
    if _watched is not None and (event.startswith("socket.") or event in FILE_EVENTS):
        _watched.append((event, details))


@pytest.fixture(scope="module")
def hook() -> None:
    sys.addaudithook(_watch)  # cannot be removed; inactive unless a test records


@pytest.fixture
def watched(hook: None) -> Iterator[list[tuple[str, Any]]]:
    """Record of every socket, file and directory that Python opens during the test."""
    global _watched
    _watched = events = []
    try:
        yield events
    finally:
        _watched = None


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_configs_reject_name(config: str, name: str, watched: list[tuple[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="name"):
        CONFIGS[config](name)
    assert watched == []


@pytest.mark.parametrize("name", ["3e3347cb", "0" * 8, "20261124", "f" * 63, "deadbeefcafe"])
def test_recipe_rejects_name_in_form_of_id(name: str) -> None:
    with pytest.raises(ConfigError, match=f"name: reads like .* artifact's id.*{name[:50]}"):
        CONFIGS["recipe"](name)
    CONFIGS["recipe"](f"v{name[1:]}")
    CONFIGS["recipe"](name[:7])


@pytest.fixture(params=["local", "remote"])
def baited(
    request: pytest.FixtureRequest, tmp_path: Path, finished: Finished
) -> Callable[[str], ArtifactStore]:
    """Store with one artifact, whose id is planted at every path that a name could reach."""
    root = tmp_path / "in" / "store"
    local = LocalStore(root)
    with local.building("a" * 64) as directory:
        finished(directory / "artifact", name="digits")
        artifact_id = str(local.publish(directory / "artifact").id)

    def plant(ref: str) -> ArtifactStore:
        for path in (root / "names" / ref, f"{root}/names/{ref}"):
            with suppress(OSError, ValueError):  # impossible paths need no bait
                bait = Path(os.path.realpath(path))
                if bait.is_relative_to(tmp_path) and not bait.exists():
                    bait.parent.mkdir(parents=True, exist_ok=True)
                    bait.write_text(artifact_id)
        return local if request.param == "local" else RemoteStore.at(root.as_uri(), root / "cache")

    return plant


def outside(watched: list[tuple[str, Any]], root: Path) -> list[str]:
    """Return accessed paths outside ``root``, after resolution of links and dots."""
    paths = [os.path.realpath(details[0]) for event, details in watched if event in FILE_EVENTS]
    return [path for path in paths if not Path(path).is_relative_to(root)]


@pytest.mark.parametrize("ref", [*NAMES, "{tmp_path}/x"], ids=lambda ref: repr(ref[:20]))
def test_store_rejects_name_without_outside_access(
    ref: str,
    tmp_path: Path,
    baited: Callable[[str], ArtifactStore],
    watched: list[tuple[str, Any]],
) -> None:
    ref = ref.replace("{tmp_path}", str(tmp_path))
    store = baited(ref)
    watched.clear()
    with pytest.raises(ArtifactNotFoundError, match="no artifact"):
        store.open(ref)
    assert [event for event, _ in watched if event.startswith("socket.")] == []
    assert outside(watched, tmp_path / "in" / "store") == []


@pytest.mark.parametrize(
    "ref", ["../../x", "..\\x", "a b", "%2e%2e", "naïve", "-rf", "{tmp_path}/x", "/etc/passwd"]
)
def test_name_would_escape_store_without_check(
    ref: str,
    tmp_path: Path,
    baited: Callable[[str], ArtifactStore],
    watched: list[tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the check, the test above would see accesses outside."""
    ref = ref.replace("{tmp_path}", str(tmp_path))
    store = baited(ref)
    monkeypatch.setattr(references, "MODEL_NAME", "(?s).*")
    watched.clear()
    opened = None
    with suppress(ArtifactError):  # /etc/passwd holds no id
        opened = store.open(ref)
    assert opened is not None or outside(watched, tmp_path / "in" / "store") != []


def test_watch_records_sockets_and_files(watched: list[tuple[str, Any]], tmp_path: Path) -> None:
    import socket

    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", 1)) != 0
    (tmp_path / "f").write_text("")
    list(tmp_path.iterdir())
    list(os.scandir(tmp_path))
    events = {event for event, _ in watched}
    assert {"socket.connect", "open", "os.listdir", "os.scandir"} <= events
    assert outside(watched, tmp_path) == []
    (tmp_path / "in").mkdir()
    os.listdir(tmp_path / "in" / "..")
    assert outside(watched, tmp_path / "in") != []
