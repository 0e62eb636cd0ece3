"""docs/operations.md names tests and files that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "operations.md").read_text()


def test_every_test_and_file_it_names_is_there() -> None:
    named = set(re.findall(r"`((?:tests|deployments|k8s)/[\w./-]+)`", TEXT))
    assert len(named) > 10
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]
    linked = re.findall(r"\]\(([\w./]+\.md)\)", TEXT)
    assert not [name for name in linked if not (ROOT / "docs" / name).exists()]
