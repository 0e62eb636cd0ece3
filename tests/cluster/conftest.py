"""What several tests of the library share: data files, users' modules, batchers."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from doubler import INPUT, whole

from cluster.config.serving import Batching
from cluster.runtime.batcher import Batcher
from cluster.tensors import TensorSpec


@pytest.fixture
def shared_file() -> Callable[[str], Path]:
    """Finds a data file by name, in HEADRACE_DATA or ../shared/data, or skips the test."""

    def find(name: str) -> Path:
        beside = Path(__file__).parents[3] / "shared" / "data"
        file = Path(os.environ.get("HEADRACE_DATA", beside)) / name
        if not file.is_file():
            pytest.skip(f"needs {name}: not in HEADRACE_DATA nor in ../shared/data")
        return file

    return find


@pytest.fixture
def module_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module with a function ``make``, gone after the test; returns its source."""
    monkeypatch.syspath_prepend(tmp_path)
    name = "headrace_test_module"

    def write(text: str) -> str:
        # Set, so that undoing removes whatever is imported under this name later.
        monkeypatch.setitem(sys.modules, name, sys)
        del sys.modules[name]
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        # An equal size within the same second would be taken from the bytecode cache.
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return f"python:{name}:make"

    return write


@pytest.fixture
def make_batcher() -> Iterator[Callable[..., Batcher]]:
    """``make_batcher(run, inputs, **batching)``: batchers that are closed after the test."""
    made: list[Batcher] = []

    def make(run: Callable, inputs: Sequence[TensorSpec] = (INPUT,), **settings: object) -> Batcher:
        made.append(Batcher(whole(run), inputs, Batching.model_validate(settings)))
        return made[-1]

    yield make
    for each in made:
        each.close()
