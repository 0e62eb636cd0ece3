"""Jobs that are killed or concurrent leave one whole artifact or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from cluster.artifact.local import LocalStore
from cluster.config.recipe import Recipe

RUN = """
import sys
from pathlib import Path
from cluster.artifact.local import LocalStore
from cluster.compression import job
from cluster.config.recipe import Recipe
recipe = Recipe.model_validate_json(sys.argv[1])
job.run(recipe, LocalStore(Path(sys.argv[2])), lambda line: print(line, flush=True))
"""


@contextmanager
def running(recipe: Recipe, store: LocalStore, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a job in a new process group, which is killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, recipe.model_dump_json(), str(store.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.slow
@pytest.mark.fault("a compression job is killed while it compiles")
def test_killed_job_leaves_nothing_and_later_jobs_build_once(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tiny_recipe("digits", "bf16", "linear")
    store = LocalStore(tmp_path / "store")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    cache = Path(default_cache_dir())  # headers compiled before, which take long
    cache.mkdir(exist_ok=True)
    (temporary / cache.name).symlink_to(cache)

    with running(recipe, store, temporary) as killed:
        assert killed.stdout is not None
        assert any(line.startswith("compile") for line in killed.stdout)
        time.sleep(1)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    for folder in ("artifacts", "names", "builds", "rejected"):
        assert below(store.root / folder) == []
    left = below(store.root / "building")
    assert len(left) == 2  # the workspace and its free lock
    with running(recipe, store, temporary) as one, running(recipe, store, temporary) as two:
        logs = [process.communicate()[0] for process in (one, two)]
        assert (one.returncode, two.returncode) == (0, 0)
    # The training was finished before the kill, so no job repeats it.
    assert not any("epoch" in log for log in logs)
    built, reused = sorted(logs, key=len, reverse=True)
    assert "compile" in built
    (artifact_id,) = below(store.root / "artifacts")
    assert built.splitlines()[-1] == f"artifact {artifact_id}"
    assert reused.startswith(f"artifact {artifact_id} already exists")
    store.open("digits").verify()
    assert below(store.root / "building") == []
    assert below(temporary) == [cache.name]
