"""Local store: consistent through every fault of its writers."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cluster.artifact import local
from cluster.artifact.local import LocalStore
from cluster.artifact.manifest import content_id
from cluster.artifact.remote import RemoteStore
from cluster.artifact.store import default_store, open_store
from cluster.errors import ArtifactCorruptError, ArtifactError, ArtifactNotFoundError

Finished = Callable[..., bytes]
KEY = "a" * 64


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def publish(store: LocalStore, finished: Finished, name: str, content: bytes = b"x") -> str:
    with store.building(KEY) as room:
        finished(room / "artifact", name=name, key=KEY, files={"weights.safetensors": content})
        return str(store.publish(room / "artifact").id)


def everything(store: LocalStore) -> list[str]:
    """Return every file and directory of the store, by path."""
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*"))


def test_store_finds_artifact_by_name_id_prefix_and_build(
    store: LocalStore, finished: Finished
) -> None:
    artifact_id = publish(store, finished, "digits")
    for ref in ("digits", artifact_id, artifact_id[:8]):
        opened = store.open(ref)
        assert opened.id == artifact_id
        opened.verify()
    build = store.find_build(KEY)
    assert build is not None
    assert build.id == artifact_id
    assert store.find_build("b" * 64) is None


def test_publish_writes_artifact_and_two_names_only(store: LocalStore, finished: Finished) -> None:
    artifact_id = publish(store, finished, "digits")
    assert everything(store) == sorted(
        [
            "artifacts",
            f"artifacts/{artifact_id}",
            f"artifacts/{artifact_id}/manifest.json",
            f"artifacts/{artifact_id}/weights.safetensors",
            "building",
            "builds",
            f"builds/{KEY}",
            "names",
            "names/digits",
        ]
    )


def test_name_resolves_to_newest_artifact(store: LocalStore, finished: Finished) -> None:
    first = publish(store, finished, "digits", b"first")
    second = publish(store, finished, "digits", b"second")
    assert store.open("digits").id == second
    assert store.open(first).file("weights.safetensors").read_bytes() == b"first"


def test_publishing_same_content_twice_gives_one_artifact(
    store: LocalStore, finished: Finished
) -> None:
    assert publish(store, finished, "digits") == publish(store, finished, "digits")
    assert len(list((store.root / "artifacts").iterdir())) == 1
    assert list((store.root / "building").iterdir()) == []


def test_unknown_artifact_is_refused_with_known_names(
    store: LocalStore, finished: Finished
) -> None:
    with pytest.raises(ArtifactNotFoundError, match="names there: none"):
        store.open("digits")
    publish(store, finished, "digits")
    for ref in ("digit", "../digits", "0" * 64, "abc", "", "names/digits"):
        with pytest.raises(ArtifactNotFoundError, match="names there: digits"):
            store.open(ref)


def test_ambiguous_id_prefix_is_refused(store: LocalStore) -> None:
    for end in "01":
        (store.root / "artifacts" / ("c" * 63 + end)).mkdir(parents=True)
    with pytest.raises(ArtifactError, match="is a prefix of 2 artifact ids"):
        store.open("cccccccc")


def test_name_with_invalid_id_is_refused(store: LocalStore, finished: Finished) -> None:
    publish(store, finished, "digits")
    (store.root / "names" / "digits").write_text("../../outside")
    with pytest.raises(ArtifactError, match=r"names/digits holds '\.\./\.\./outside'"):
        store.open("digits")


def test_id_is_never_looked_up_as_name(store: LocalStore, finished: Finished) -> None:
    good, evil = (publish(store, finished, name) for name in ("digits", "evil"))
    for ref in (good[:8], good[:12], good):
        (store.root / "names" / ref).write_text(evil)
        assert store.find(ref) == good
    # An unknown prefix is not looked up as a name, either.
    (store.root / "names" / ("f" * 12)).write_text(evil)
    with pytest.raises(ArtifactNotFoundError):
        store.find("f" * 12)
    # Other entries of the directory are not artifacts.
    (store.root / "artifacts" / f"{good[:12]}-copy").mkdir()
    assert store.find(good[:12]) == good


def test_store_error_names_unreadable_path(store: LocalStore, finished: Finished) -> None:
    artifact_id = publish(store, finished, "digits")
    (store.root / "names" / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(
        ArtifactError, match="names/binary holds '\ufffd\ufffd', expected an artifact"
    ):
        store.open("binary")
    (store.root / "names" / "folder").mkdir()
    with pytest.raises(ArtifactNotFoundError, match="no artifact 'folder'"):
        store.open("folder")
    (store.root / "names" / "a\x1b[2J\nb").touch()
    with pytest.raises(ArtifactNotFoundError, match=r"names there: a\\x1b\[2J\\nb, binary"):
        store.open("none")

    signatures = store.root / "signatures" / artifact_id
    signatures.mkdir(parents=True)
    (signatures / ("a" * 32)).mkdir()
    (signatures / ("b" * 32)).symlink_to("/nonexistent")
    os.mkfifo(signatures / ("c" * 32))
    (signatures / ("d" * 32)).write_bytes(b"signature")
    assert store.signatures(artifact_id) == {"d" * 32: b"signature"}
    shutil.rmtree(signatures)
    signatures.touch()
    with pytest.raises(ArtifactError, match=f"{signatures}: cannot be read: Not a directory"):
        store.signatures(artifact_id)
    with pytest.raises(ArtifactError, match=f"{signatures}: cannot be written: File exists"):
        store.keep_signature(artifact_id, "a" * 32, b"signature")
    (store.root / "calibrations").touch()
    with pytest.raises(ArtifactError, match="calibrations: cannot be written: File exists"):
        store.keep_calibration("k", b"{}")


def test_signature_requires_whole_id(store: LocalStore) -> None:
    for artifact_id in ("../../outside", "", "A" * 64, "a" * 63):
        with pytest.raises(ArtifactError, match="expected an artifact's id: 64 hex digits"):
            store.keep_signature(artifact_id, "a" * 32, b"signature")
        with pytest.raises(ArtifactError, match="expected an artifact's id: 64 hex digits"):
            store.fetch(artifact_id)


def test_corrupt_workspace_is_not_published(store: LocalStore, finished: Finished) -> None:
    with store.building(KEY) as room:
        finished(room / "artifact")
        (room / "artifact" / "weights.safetensors").write_bytes(b"other")
        with pytest.raises(ArtifactCorruptError, match=r"weights\.safetensors"):
            store.publish(room / "artifact")
    assert everything(store) == ["building"]


def test_failed_build_leaves_nothing(store: LocalStore) -> None:
    def fail() -> None:
        with store.building(KEY) as room:
            (room / "half").write_bytes(b"made")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert everything(store) == ["building"]


def test_deleted_artifact_is_built_again(store: LocalStore, finished: Finished) -> None:
    artifact_id = publish(store, finished, "digits")
    (store.root / "artifacts" / artifact_id).rename(store.root / "elsewhere")
    assert store.find_build(KEY) is None


def test_relative_store_is_refused() -> None:
    with pytest.raises(ArtifactError, match="absolute directory"):
        open_store("somewhere/relative")


def test_store_location_prefers_argument_over_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_STORE", str(tmp_path / "env"))
    from_argument, from_environment = open_store(str(tmp_path / "given")), open_store(None)
    assert isinstance(from_argument, LocalStore)
    assert from_argument.root == tmp_path / "given"
    assert isinstance(from_environment, LocalStore)
    assert from_environment.root == tmp_path / "env"
    monkeypatch.delenv("HEADRACE_STORE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store() == str(tmp_path / ".headrace" / "store")
    assert isinstance(open_store("memory://store"), RemoteStore)


def test_store_keeps_rejected_reports_and_step_weights(store: LocalStore, tmp_path: Path) -> None:
    location = store.reject("digits", KEY, {".json": b'{"accepted": false}', ".html": b"<p>"})
    assert Path(location).read_bytes() == b'{"accepted": false}'
    assert Path(location).with_suffix(".html").read_bytes() == b"<p>"
    assert store.cached_step("k") is None
    (tmp_path / "w").write_bytes(b"trained")
    store.cache_step("k", tmp_path / "w")
    cached = store.cached_step("k")
    assert cached is not None
    assert cached.read_bytes() == b"trained"
    with pytest.raises(ArtifactNotFoundError):
        store.open("digits")


def test_killed_build_stays_resumable_until_expiry(
    store: LocalStore,
) -> None:
    (store.checkpoints("one") / "journal").write_text("a")
    (store.checkpoints("two") / "journal").write_text("b")
    assert (store.checkpoints("one") / "journal").read_text() == "a"
    store.drop_checkpoints("one")
    assert list(store.checkpoints("one").iterdir()) == []
    long_ago = time.time() - local.KEPT_S - 1
    os.utime(store.root / "kept" / "two", (long_ago, long_ago))
    store.checkpoints("one")
    assert [path.name for path in (store.root / "kept").iterdir()] == ["one"]


# ------------------------------------------------------------------ several processes

HOLD = """
import sys
import time
from pathlib import Path
from cluster.artifact import local
from cluster.artifact.local import LocalStore
with LocalStore(Path(sys.argv[1])).building(sys.argv[2]) as room:
    (room / "half").write_bytes(b"made")
    print("holds", flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""


@contextmanager
def holding(store: LocalStore, key: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that builds under ``key`` until it reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root), key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_next_build_sweeps_workspace_of_killed_process(store: LocalStore) -> None:
    with holding(store, KEY) as killed, holding(store, "b" * 64) as living:
        assert (line(killed), line(living)) == ("holds", "holds")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (store.root / "building" / KEY / "half").is_file()
        (
            store.root / "building" / f"{'d' * 64}.lock"
        ).touch()  # killed before it created its directory
        with store.building("c" * 64):
            assert not (store.root / "building" / KEY).exists()
            assert (store.root / "building" / ("b" * 64) / "half").is_file()
        living.communicate("\n")
    assert everything(store) == ["building"]


def test_killed_build_does_not_block_its_key(store: LocalStore) -> None:
    with holding(store, KEY) as killed:
        assert line(killed) == "holds"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    with store.building(KEY) as room:
        assert list(room.iterdir()) == []
    assert everything(store) == ["building"]


def test_one_process_at_a_time_builds_a_key(store: LocalStore) -> None:
    # The holder of the directory prints a line; another process enters only after its release.
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        processes = [stack.enter_context(holding(store, KEY)) for _ in range(3)]
        for process in processes:
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, process)
        for turn in range(4):
            ready = selector.select(timeout=30)
            assert len(ready) == 1
            holder = ready[0][0].data
            assert line(holder) == "holds"
            if turn == 1:  # a new process finds the lock file removed and created again
                late = stack.enter_context(holding(store, KEY))
                assert late.stdout is not None
                selector.register(late.stdout, selectors.EVENT_READ, late)
            assert selector.select(timeout=1) == []
            selector.unregister(holder.stdout)
            holder.communicate("\n")
            assert holder.returncode == 0
    assert everything(store) == ["building"]


READ = """
import sys
import time
from pathlib import Path
from cluster.artifact import local
from cluster.artifact.local import LocalStore
store = LocalStore(Path(sys.argv[1]))
print("ready", flush=True)
sizes = set()
while not (store.root / "stop").exists():
    sizes.add(len(store.cached_step("k").read_bytes()))
print(sorted(sizes))
"""


def test_readers_never_see_partial_file(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "large").write_bytes(b"x" * 4_000_000)
    store.cache_step("k", tmp_path / "small")
    reader = subprocess.Popen(
        [sys.executable, "-c", READ, str(store.root)], stdout=subprocess.PIPE, text=True
    )
    with reader:
        assert line(reader) == "ready"
        for _ in range(10):
            store.cache_step("k", tmp_path / "large")
            store.cache_step("k", tmp_path / "small")
        (store.root / "stop").touch()
        assert set(map(int, line(reader).strip("[]").split(", "))) <= {1, 4_000_000}
    assert list((store.root / "building").iterdir()) == []


def test_id_covers_every_file(store: LocalStore, finished: Finished, tmp_path: Path) -> None:
    first = finished(tmp_path / "one", files={"weights.safetensors": b"1"})
    two = finished(tmp_path / "two", files={"weights.safetensors": b"2"})
    assert content_id(first) != content_id(two)
