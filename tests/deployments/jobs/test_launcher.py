"""Launcher on a real Ray cluster of 4 CPUs: gangs, tasks, deaths, data-parallel training.

Drivers run in separate processes, as the compression job does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.local import LocalCluster

TASKS = '''
"""What the drivers of this test run in other processes."""
import os, signal, time
from pathlib import Path
from cluster.errors import CompressionError, SourceError
from cluster.program.node import cpus

def double(x):
    return 2 * x

def about(x):
    import torch
    return {"twice": 2 * x, "pid": os.getpid(), "cpus": cpus(), "threads": torch.get_num_threads(),
            "word": os.environ.get("HEADRACE_TEST_WORD")}

def refuse(x):
    if x == 1:
        raise SourceError("no such folder: give another")
    time.sleep(60)

def stumble(x):
    if x == 1:
        raise KeyError("odd")

def fail_after_peer(x):
    if x == 0:
        raise RuntimeError("connection closed by peer")
    time.sleep(1)
    raise SourceError("no such folder: give another")

def die(folder):
    (Path(folder) / str(os.getpid())).touch()
    if len(list(Path(folder).iterdir())) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

def die_if_odd(x):
    if x % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return x

def sleep_if_odd(task):
    x, folder = task
    if x % 2:
        (folder / str(os.getpid())).touch()
        time.sleep(60)

def meet(folder):
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.05)
    return len(list(folder.iterdir()))

def overlap(folder):
    folder.mkdir(exist_ok=True)
    mine = folder / str(time.monotonic_ns())
    mine.touch()
    time.sleep(0.3)
    seen = len(list(Path(folder).iterdir()))
    mine.unlink()
    return seen
'''

MODELS = '''
"""Models to train side by side."""
import os, signal
from pathlib import Path
import torch
from torch import nn, distributed

def linear(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def convolutional(num_classes):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 64, num_classes),
    )

class Mortal(nn.Sequential):
    """Once, when a first epoch is finished, the second process is killed in the middle of one."""

    def forward(self, x):
        folder = os.environ.get("HEADRACE_TEST_FOLDER")
        if folder and self.training and distributed.is_initialized() and distributed.get_rank():
            killed = Path(folder) / "killed"
            if list(Path(folder).glob("*.safetensors")) and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

def mortal(num_classes):
    return Mortal(nn.Flatten(), nn.Linear(64, num_classes))
'''

PRELUDE = """
import json, os, sys, time
from pathlib import Path
from cluster.errors import HeadraceError, LostProcessError
from deployments.jobs.launcher import RayLauncher
import launcher_tasks as tasks

folder = Path(sys.argv[1])

def refused(call):
    try:
        call()
    except HeadraceError as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]

def alive(pid):
    return Path("/proc", str(pid)).exists() and "Z" not in Path(
        "/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]

def left():
    import ray
    from ray.util import placement_group_table
    groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    return [len(groups), ray.available_resources().get("CPU")]
"""

TRAINING = """
import torch
from cluster.artifact.store import open_store
from cluster.compression.training.train import train
from cluster.compression.work import Job, Work
from cluster.config.base import parse
from cluster.config.recipe import Recipe
from cluster.config.steps import Train

def trained(launcher, model, processes, where, **settings):
    recipe = parse({
        "name": "bench",
        "model": {
            "source": f"python:launcher_models:{model}",
            "image": {"size": 8, "channels": 1, "mean": [0.5], "std": [0.5]},
        },
        "data": {"source": "digits", "limit": 300},
    }, Recipe, "recipe")
    lines = []
    job = Job.load(recipe, open_store(str(where / "store")), workspace=where, checkpoints=where,
                   out=lines.append, launcher=launcher)
    step = Train(kind="train", batch_size=32, processes=processes, **settings)
    work = train(Work.of(job.model.module, job.model.inputs), step, job)
    return work.weights(), lines, job.details["losses"]

def furthest(one, other):
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)
"""

Drive = Callable[..., Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launcher")
    (folder / "launcher_tasks.py").write_text(TASKS)
    (folder / "launcher_models.py").write_text(MODELS)
    return folder


@pytest.fixture
def drive(cluster: LocalCluster, home: Path, tmp_path: Path) -> Drive:
    """Return a function that runs a script as a Ray job and returns its JSON answer.

    PYTHONPATH is in the job's environment; ``folder`` is an empty directory for the script.
    """

    def run(script: str, **variables: str) -> Any:
        folder = tmp_path / "folder"
        folder.mkdir()
        (tmp_path / "driver.py").write_text(PRELUDE + script)
        answer = tmp_path / "answer.json"
        environment = {"env_vars": {"PYTHONPATH": str(home), **variables}}
        result = subprocess.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit"),
                *("--runtime-env-json", json.dumps(environment), "--"),
                *(sys.executable, str(tmp_path / "driver.py"), str(folder), str(answer)),
            ],
            env={**os.environ, **cluster.environment()},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert answer.exists(), result.stdout + result.stderr
        return json.loads(answer.read_text())

    return run


ANSWER = "\nPath(sys.argv[2]).write_text(json.dumps(answer))\n"


@pytest.mark.slow
def test_gang_runs_at_once_with_its_share_of_cpus(drive: Drive) -> None:
    answer = drive(
        """
with RayLauncher() as launcher:
    answer = {
        "two": launcher.gang(tasks.about, [0, 1]),
        "again": launcher.gang(tasks.about, [0, 1]),
        "four": launcher.gang(tasks.about, [0, 1, 2, 3]),
        "address": launcher.address,
        "many": refused(lambda: launcher.gang(tasks.double, range(5))),
        "left": left(),
    }
import ray
answer["joined"] = ray.is_initialized()
"""
        + ANSWER,
        HEADRACE_TEST_WORD="inherited",
    )
    assert [process["twice"] for process in answer["four"]] == [0, 2, 4, 6]
    assert len({process["pid"] for process in answer["four"]}) == 4
    assert [(process["cpus"], process["threads"]) for process in answer["two"]] == [(2, 2)] * 2
    assert [(process["cpus"], process["threads"]) for process in answer["again"]] == [(2, 2)] * 2
    assert [(process["cpus"], process["threads"]) for process in answer["four"]] == [(1, 1)] * 4
    assert {process["word"] for process in answer["four"]} == {"inherited"}
    assert answer["address"] == "127.0.0.1"
    kind, message = answer["many"]
    assert kind == "CompressionError"
    assert message.startswith("processes=5 needs 5 CPUs, the cluster has 4")
    assert answer["left"] == [0, 4]
    assert not answer["joined"]


@pytest.mark.slow
def test_failed_gang_reports_reason_and_leaves_nothing(drive: Drive) -> None:
    answer = drive(
        """
with RayLauncher() as launcher:
    answer = {
        "own": refused(lambda: launcher.gang(tasks.refuse, [0, 1])),
        "foreign": refused(lambda: launcher.gang(tasks.stumble, [0, 1])),
        "peer": refused(lambda: launcher.gang(tasks.fail_after_peer, [0, 1])),
        "died": refused(lambda: launcher.gang(tasks.die, [str(folder)] * 2)),
        "left": left(),
    }
answer["alive"] = [alive(path.name) for path in folder.iterdir()]
"""
        + ANSWER
    )
    assert answer["own"] == ["SourceError", "no such folder: give another"]
    assert answer["peer"] == answer["own"]
    assert answer["foreign"] == ["CompressionError", "process 2 of 2 raised KeyError: 'odd'"]
    kind, message = answer["died"]
    assert kind == "LostProcessError"
    assert " of 2 died: " in message
    assert answer["left"] == [0, 4]
    assert answer["alive"] == [False, False]


@pytest.mark.slow
def test_tasks_run_limited_and_dead_one_is_reported(drive: Drive) -> None:
    answer = drive(
        """
def results(launcher, function, items):
    return [finished.result for finished in launcher.map_unordered(function, items, 2)]


with RayLauncher() as launcher:
    # First, while nothing that is ending still holds a CPU.
    cpus = [each.result["cpus"] for each in launcher.map_unordered(tasks.about, [0, 1], 2)]
    found = list(launcher.map_unordered(tasks.die_if_odd, [0, 1, 2, 3, 4], at_once=2))
    stopped = launcher.map_unordered(tasks.sleep_if_odd, [(0, folder), (1, folder), (3, folder)], 2)
    next(stopped)
    while not list(folder.iterdir()):
        time.sleep(0.05)
    asleep = [path.name for path in folder.iterdir()]
    stopped.close()
    answer = {
        "results": {each.index: each.result for each in found if each.lost is None},
        "lost": {each.index: str(each.lost) for each in found if each.lost is not None},
        "kinds": [type(each.lost).__name__ for each in found if each.lost is not None],
        "asleep": len(asleep),
        "alive": [alive(pid) for pid in asleep],
        "overlap": results(launcher, tasks.overlap, [folder / "o"] * 5),
        "met": results(launcher, tasks.meet, [folder / "m"] * 2),
        "cpus": cpus,
        "refused": refused(lambda: list(launcher.map_unordered(tasks.refuse, [0, 1, 2], 3))),
        "left": left(),
    }
"""
        + ANSWER
    )
    assert answer["results"] == {"0": 0, "2": 2, "4": 4}
    assert answer["lost"].keys() == {"1", "3"}
    assert set(answer["kinds"]) == {"LostProcessError"}
    assert answer["lost"]["1"].startswith("task 1 died: ")
    assert answer["asleep"] >= 1
    assert not any(answer["alive"])
    assert max(answer["overlap"]) <= 2
    assert answer["met"] == [2, 2]
    assert answer["cpus"] == [2, 2]
    assert answer["refused"] == ["SourceError", "no such folder: give another"]
    assert answer["left"] == [0, 4]


@pytest.mark.slow
def test_two_processes_train_same_model_as_one(drive: Drive) -> None:
    answer = drive(
        TRAINING
        + """
with RayLauncher() as launcher:
    one, _, losses_1 = trained(launcher, "linear", 1, folder / "a", epochs=2)
    two, lines, losses_2 = trained(launcher, "linear", 2, folder / "b", epochs=2)
    norm, _, _ = trained(launcher, "convolutional", 2, folder / "c", epochs=2, loss="mse")
    answer = {
        "far": furthest(one, two),
        "moved": float(one["1.weight"].abs().max()),
        "losses": [losses_1, losses_2],
        "lines": lines,
        "finite": all(bool(torch.isfinite(t).all()) for t in norm.values()),
        "large": refused(lambda: trained(launcher, "linear", 8, folder / "d", epochs=1)),
        "left": left(),
    }
"""
        + ANSWER
    )
    assert answer["far"] < 1e-5 < answer["moved"]
    assert answer["losses"][0] == pytest.approx(answer["losses"][1], abs=1e-5)
    # 300 samples, a tenth kept back: 9 updates of at most 32 in each epoch.
    assert answer["lines"][-1].startswith("train    ████████████████████ 18/18")
    assert answer["finite"]
    assert answer["large"][1].startswith("processes=8 needs 8 CPUs, the cluster has 4")
    assert answer["left"] == [0, 4]


@pytest.mark.slow
def test_killed_process_loses_no_finished_epoch(drive: Drive, tmp_path: Path) -> None:
    whole = tmp_path / "killing"
    whole.mkdir()
    answer = drive(
        TRAINING
        + """
where = Path(os.environ["HEADRACE_TEST_FOLDER"])
with RayLauncher() as launcher:
    expected, _, losses = trained(launcher, "linear", 2, folder / "a", epochs=3)
    found, lines, again = trained(launcher, "mortal", 2, where, epochs=3)
    answer = {
        "far": furthest(expected, found),
        "losses": [losses, again],
        "lines": lines,
        "killed": (where / "killed").exists(),
        "left": left(),
    }
"""
        + ANSWER,
        HEADRACE_TEST_FOLDER=str(whole),
    )
    assert answer["killed"]
    # Both gangs computed with as many threads: one and two threads end 3e-8 apart here.
    assert answer["far"] == 0
    assert answer["losses"][0] == pytest.approx(answer["losses"][1], abs=1e-6)
    retry_line = next(line for line in answer["lines"] if "lost a process" in line)
    assert "process 2 of 2 died" in retry_line
    assert retry_line.endswith("checkpoint, retry 1 of 3")
    assert any("resumes after epoch 1 of 3" in line for line in answer["lines"])
    assert answer["left"] == [0, 4]
