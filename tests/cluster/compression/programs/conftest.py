"""What the tests of programs share."""

from __future__ import annotations

from pathlib import Path

import pytest
from assembled import Assemble, assembling


@pytest.fixture
def assemble(tmp_path: Path) -> Assemble:
    """``assemble(bench, *kinds, work=None, batches=(1,))``: builds these kinds, without any the
    default ones.

    ``work``: another one than the bench's own.
    """
    return assembling(tmp_path)
