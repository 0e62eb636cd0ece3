"""Fixtures shared by tests of the library: users' modules, batchers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from doubler import INPUT, whole

from cluster.config.serving import Batching
from cluster.runtime.batcher import Batcher
from cluster.tensors import TensorSpec


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
