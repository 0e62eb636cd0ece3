"""Cache of artifacts for tests of serving: one build, also for concurrent and interrupted calls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import golden

from cluster.config.recipe import Recipe

TinyRecipe = Callable[..., Recipe]


class Builder:
    """Builder of a file in place of an artifact; its first ``fails`` builds are interrupted."""

    def __init__(self, fails: int = 0) -> None:
        self.fails = fails
        self.built: list[str] = []

    def __call__(self, recipe: Recipe, store: Path) -> None:
        assert list(store.iterdir()) == []
        (store / "half").touch()
        if self.fails:
            self.fails -= 1
            raise KeyboardInterrupt
        (store / recipe.name).write_text("built")
        self.built.append(recipe.name)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(golden.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_golden_artifact_is_built_once(
    cache: Path, tmp_path: Path, tiny_recipe: TinyRecipe
) -> None:
    builder, recipe = Builder(), tiny_recipe("one", None)
    stores = [tmp_path / f"store-{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda store: golden.copy_into(store, recipe, "", builder), stores))
    assert builder.built == ["one"]
    assert [(store / "one").read_text() for store in stores] == ["built"] * 4


def test_golden_artifact_depends_on_recipe_and_models(
    cache: Path, tmp_path: Path, tiny_recipe: TinyRecipe
) -> None:
    builder = Builder()
    for number, (recipe, models) in enumerate(
        [
            (tiny_recipe("one", None), ""),
            (tiny_recipe("one", "bf16"), ""),
            (tiny_recipe("one", None), "another"),
        ]
    ):
        golden.copy_into(tmp_path / str(number), recipe, models, builder)
    assert builder.built == ["one"] * 3


def test_interrupted_golden_build_is_repeated_whole(
    cache: Path, tmp_path: Path, tiny_recipe: TinyRecipe
) -> None:
    builder, recipe = Builder(fails=1), tiny_recipe("one", None)
    with pytest.raises(KeyboardInterrupt):
        golden.copy_into(tmp_path / "store", recipe, "", builder)
    assert not (tmp_path / "store").exists()
    golden.copy_into(tmp_path / "store", recipe, "", builder)
    assert (tmp_path / "store" / "one").read_text() == "built"


def test_unused_golden_artifact_is_removed(
    cache: Path, tmp_path: Path, tiny_recipe: TinyRecipe
) -> None:
    builder = Builder()
    golden.copy_into(tmp_path / "one", tiny_recipe("one", None), "", builder)
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    long_ago = time.time() - golden.UNUSED_S - 1
    os.utime(entry, (long_ago, long_ago))
    golden.copy_into(tmp_path / "two", tiny_recipe("two", None), "", builder)
    assert not entry.exists()
