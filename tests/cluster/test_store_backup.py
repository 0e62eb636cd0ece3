"""Backup of a store during writes, copied in the order of docs/operations.md."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from cluster.artifact.local import LocalStore

ROOT = Path(__file__).parents[2]
ORDER = re.search(
    r"^rsync .*?((?:STORE/\w+ )+)BACKUP/; rsync .*?((?:STORE/\w+ )+)BACKUP/$",
    (ROOT / "docs" / "operations.md").read_text(),
    re.MULTILINE,
)


def test_every_name_in_backup_has_its_artifact(
    finished: Callable[..., bytes], tmp_path: Path
) -> None:
    assert ORDER is not None
    first, last = (re.findall(r"STORE/(\w+)", group) for group in ORDER.groups())
    store = LocalStore(tmp_path / "store")

    def publish(name: str, key: str) -> None:
        with store.building(key) as room:
            finished(room, name=name, key=key)
            store.publish(room)

    def copy(folders: list[str]) -> None:
        for folder in folders:
            if (store.root / folder).exists():
                shutil.copytree(store.root / folder, tmp_path / "copy" / folder)

    publish("before", "a" * 64)
    copy(first)
    publish("meanwhile", "b" * 64)
    copy(last)
    names = [path.name for path in (tmp_path / "copy" / "names").iterdir()]
    assert "before" in names
    for name in names:
        LocalStore(tmp_path / "copy").open(name).verify()
