"""Fixture of the tests of programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from assembled import Assemble, assembling


@pytest.fixture
def assemble(tmp_path: Path) -> Assemble:
    """Return ``assemble(bench, *kinds, work=None, batches=(1,))``, which builds these kinds.

    Without ``kinds`` it builds the default ones. ``work``: the bench's by default.
    """
    return assembling(tmp_path)
