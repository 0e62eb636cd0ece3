"""Fixtures shared by tests of the library: data files, users' modules, batchers."""

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
    """Factory of a data file's path by name; skips the test if the file is missing."""

    def find(name: str) -> Path:
        beside = Path(__file__).parents[3] / "shared" / "data"
        file = Path(os.environ.get("HEADRACE_DATA", beside)) / name
        if not file.is_file():
            pytest.skip(f"needs {name}: not in HEADRACE_DATA nor in ../shared/data")
        return file

    return find


@pytest.fixture
def module_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Factory of a module with a function ``make``, removed after the test; returns its source."""
    monkeypatch.syspath_prepend(tmp_path)
    name = "headrace_test_module"

    def write(text: str) -> str:
        # Set first, so that undoing removes a later import under this name.
        monkeypatch.setitem(sys.modules, name, sys)
        del sys.modules[name]
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        # A file of equal size within the same second would be read from the bytecode cache.
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return f"python:{name}:make"

    return write


@pytest.fixture
def make_batcher() -> Iterator[Callable[..., Batcher]]:
    """Factory ``make_batcher(run, inputs, **batching)`` of batchers, closed after the test."""
    batchers: list[Batcher] = []

    def make(run: Callable, inputs: Sequence[TensorSpec] = (INPUT,), **settings: object) -> Batcher:
        batchers.append(Batcher(whole(run), inputs, Batching.model_validate(settings)))
        return batchers[-1]

    yield make
    for batcher in batchers:
        batcher.close()
