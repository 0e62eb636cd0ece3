"""Command ``headrace`` as a process: exit statuses, output, and a clean machine afterwards."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import golden, serve_config
from support.command import Command
from support.http_client import ask
from support.wait import WITHIN_S, until

from cluster.artifact.local import LocalStore
from cluster.config.recipe import Recipe
from deployments.local import ports
from deployments.local.cluster import DASHBOARD_PORT, HTTP_PORT


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Empty home directory: its later content comes from the command."""
    return tmp_path / "home"


@pytest.fixture
def headrace(home: Path, int8_artifact_store: Path, tmp_path: Path) -> Command:
    """``headrace ARGUMENTS`` with that home and the store of the tests."""
    return Command(home, tmp_path / "temporary", HEADRACE_STORE=str(int8_artifact_store))


def test_inspect_prints_the_artifact(headrace: Command, int8_artifact_store: Path) -> None:
    artifact = LocalStore(int8_artifact_store).open("tiny-int8")
    text = headrace("inspect", "tiny-int8")
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith(f"tiny-int8  {artifact.id}\n")
    for part in ("quantize static_int8", "programs/cpu-x86.pt2", "baseline (trained model, eager"):
        assert part in text.stdout
    assert (
        "gate       max_accuracy_drop 0.05, min_agreement 0.9 (default), min_speedup off, "
        "max_size_share off, max_bytes off\n"
    ) in text.stdout
    for ref in (str(artifact.id)[:12], artifact.path):
        data = headrace("inspect", ref, "--json")
        document = json.loads(data.stdout)
        assert document.pop("id") == artifact.id
        assert document.pop("signatures") == {}
        assert document == artifact.manifest.model_dump(mode="json")


def test_inspect_shows_signers_and_up_requires_signature(
    headrace: Command, int8_artifact_store: Path, tmp_path: Path
) -> None:
    store, key, trusted = tmp_path / "store", tmp_path / "key.pem", tmp_path / "trusted"
    shutil.copytree(int8_artifact_store, store)
    trusted.mkdir()
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    key.chmod(0o644)
    refused = headrace("sign", "tiny-int8", "--key", key, "--store", store)
    assert refused.returncode == 2
    assert f"`chmod 600 {key}`" in refused.stderr
    key.chmod(0o600)
    signed = headrace("sign", "tiny-int8", "--key", key, "--store", store)
    assert signed.returncode == 0, signed.stderr
    signer, export = re.findall(r"signed by ([0-9a-f]{32});.*\n  (openssl .*)", signed.stdout)[0]
    subprocess.run(export.replace("TRUSTED", str(trusted)).split(), check=True)
    for environment, trust in (
        ({}, "not trusted here"),
        ({"HEADRACE_TRUSTED_KEYS": str(trusted)}, "trusted"),
    ):
        shown = headrace("inspect", "tiny-int8", "--store", store, **environment)
        assert f"signed     {signer} ({trust})\n" in shown.stdout, shown
    config = serve_config.write(
        tmp_path, serve_config.model("m", "tiny-int8", require_signature=True)
    )
    up = headrace("up", config, HEADRACE_TRUSTED_KEYS=str(trusted))
    assert up.returncode == 1
    assert "is not signed, but require_signature is true" in up.stderr
    up = headrace("up", config)
    assert up.returncode == 2
    assert "HEADRACE_TRUSTED_KEYS is not set" in up.stderr


def test_inspect_names_the_artifacts_if_one_is_unknown(headrace: Command) -> None:
    done = headrace("inspect", "tiny-int9")
    assert done.returncode == 1
    assert "no artifact 'tiny-int9'" in done.stderr
    assert re.search(r"names there: [\w, -]*tiny-int8", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"steps": [{"kind": "quantize", "scheme": "int3"}]}, "steps[0].scheme: .*'int3'"),
        ({"seeed": 1}, "seeed: unknown field"),
        ({"model": {"source": "resnet18"}}, "model.source: 'resnet18' is not one of"),
    ],
)
def test_invalid_recipe_is_reported_before_a_cluster_starts(
    headrace: Command, home: Path, tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({"name": "wrong", "model": {"source": "torchvision:resnet18"}} | change)
    )
    done = headrace("compress", recipe)
    assert done.returncode == 2, done
    first, *rest = expected.split(".*")
    assert done.stderr.startswith(f"headrace: {recipe}: {first}")
    assert all(part in done.stderr for part in rest)
    assert list(home.iterdir()) == []


def test_missing_compiler_is_reported_before_a_cluster_starts(
    headrace: Command, home: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{name: good, model: {source: 'torchvision:resnet18'}}")
    done = headrace("compress", recipe, CXX="/nonexistent")
    assert done.returncode == 1
    assert "no C++ compiler: '/nonexistent' is not on the PATH" in done.stderr
    assert list(home.iterdir()) == []


def test_invalid_config_is_reported_before_a_cluster_starts(
    headrace: Command, home: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, port=8000, batching={"max_batch_size": 0})
    done = headrace("up", config)
    assert done.returncode == 2
    assert f"{config}: applications[1].args: batching.max_batch_size" in done.stderr
    assert "(given: 0)" in done.stderr
    assert list(home.iterdir()) == []


def test_unplaceable_cut_is_reported_before_a_cluster_starts(
    headrace: Command, home: Path, tmp_path: Path, cut_artifact_store: Path
) -> None:
    model = {"artifact": "tiny-cut", "store": str(cut_artifact_store)}
    config = write_config(tmp_path, port=8000, **model, parallel={"pipeline": 3, "tensor": 1})
    done = headrace("up", config, HEADRACE_CPUS="3")
    assert done.returncode == 2
    assert "has no layout pipeline 3 × tensor 1; it has pipeline 2 × tensor 1" in done.stderr
    config = write_config(tmp_path, port=8000, **model, parallel={"pipeline": 2, "tensor": 1})
    done = headrace("up", config, HEADRACE_CPUS="1")
    assert done.returncode == 2
    assert "pp2.tp1 needs 2 devices of cpu-x86, there are 1" in done.stderr
    assert list(home.iterdir()) == []


@pytest.mark.cluster
def test_up_serves_and_down_leaves_nothing(headrace: Command, home: Path, tmp_path: Path) -> None:
    holder = ports.holder(DASHBOARD_PORT)
    if holder is not None:
        pytest.skip(f"`headrace up` needs port {DASHBOARD_PORT}, which {holder} holds")
    (port,) = ports.free_ports(1)
    config = write_config(tmp_path, port=port)
    try:
        up = headrace("up", config, timeout_s=WITHIN_S)
        assert up.returncode == 0, up.stderr
        url = f"http://127.0.0.1:{port}/v2/models/tiny"
        assert url in up.stdout
        assert ask(f"{url}/ready").json == {"name": "tiny", "ready": True}
        again = headrace("up", config, timeout_s=WITHIN_S)  # the same cluster
        assert again.returncode == 0, again.stderr
        (other,) = ports.free_ports(1)
        refused = headrace("up", write_config(tmp_path, port=other))
        assert refused.returncode == 2
        assert f"http_options.port: the local cluster that runs already has port {port} " in (
            refused.stderr
        )
    finally:
        down = headrace("down", timeout_s=WITHIN_S)
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    for used in (port, DASHBOARD_PORT):
        assert ports.holder(used) is None
    headrace.assert_nothing_left()
    assert [path.name for path in (home / ".headrace" / "local").iterdir()] == ["lock"]
    again = headrace("down")
    assert (again.returncode, again.stdout) == (0, "no local cluster is running\n")


@pytest.mark.cluster
@pytest.mark.slow
def test_up_stops_its_cluster_after_a_failed_config(
    headrace: Command, home: Path, tmp_path: Path
) -> None:
    holder = ports.holder(DASHBOARD_PORT)
    if holder is not None:
        pytest.skip(f"`headrace up` needs port {DASHBOARD_PORT}, which {holder} holds")
    (port,) = ports.free_ports(1)
    try:
        config = write_config(tmp_path, port)
        raw = yaml.safe_load(config.read_text())
        # An unknown builder: only Serve notices that the import fails.
        raw["applications"].append(
            {"name": "other", "route_prefix": "/other", "import_path": "headrace_nowhere:app"}
        )
        config.write_text(yaml.safe_dump(raw))
        up = headrace("up", config, timeout_s=WITHIN_S)
        assert up.returncode == 1, up
        assert "No module named 'headrace_nowhere'" in up.stderr
        assert [path.name for path in (home / ".headrace" / "local").iterdir()] == ["lock"]
    finally:
        headrace("down", timeout_s=WITHIN_S)


@pytest.mark.cluster
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_interrupted_compress_leaves_nothing(
    headrace: Command, home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = _interruptible_compress(headrace, tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 130, errors
    assert errors.endswith("headrace: interrupted\n")
    assert list((home / ".headrace" / "jobs").iterdir()) == []
    headrace.assert_nothing_left()


@pytest.mark.cluster
@pytest.mark.slow
def test_down_stops_the_cluster_of_a_killed_compress(
    headrace: Command, home: Path, tmp_path: Path
) -> None:
    process = _interruptible_compress(headrace, tmp_path)
    process.kill()
    process.communicate(timeout=WITHIN_S)
    assert headrace.directories_left() == [cluster.run_dir for cluster in headrace.clusters]
    down = headrace("down", timeout_s=WITHIN_S)
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert list((home / ".headrace" / "jobs").iterdir()) == []
    headrace.assert_nothing_left()


@pytest.mark.cluster
@pytest.mark.slow
def test_compress_reuses_an_earlier_build(
    headrace: Command, tmp_path: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    path, store = tmp_path / "recipe.yaml", tmp_path / "store"
    recipe = tiny_recipe("tiny-linear", None, "linear", programs=[{"kinds": ["exported"]}])
    store.mkdir()
    golden.build(recipe, store)
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    done = headrace("compress", path, "--store", store, timeout_s=WITHIN_S)
    assert done.returncode == 0, done
    assert "already exists: this recipe was built before" in done.stdout  # the job's own log
    headrace.assert_nothing_left()


@pytest.mark.cluster
@pytest.mark.slow
def test_demo_serves_with_measured_accuracy(headrace: Command, home: Path, tmp_path: Path) -> None:
    for port in (DASHBOARD_PORT, HTTP_PORT):
        if (holder := ports.holder(port)) is not None:
            pytest.skip(f"`headrace demo` needs port {port}, which {holder} holds")
    figures = tmp_path / "figures.json"
    store = str(tmp_path / "store")
    done = headrace("demo", "--json", figures, timeout_s=600, HEADRACE_STORE=store)
    assert done.returncode == 0, done
    assert "stopped cleanly" in done.stdout
    demo = json.loads(figures.read_text())
    evaluated = demo["artifacts"]["digits-int8"]["measured"]
    assert evaluated["accuracy"] > 0.95
    for served in demo["served"].values():
        assert served["accuracy"] == evaluated["accuracy"]
    assert ports.holder(HTTP_PORT) is None
    headrace.assert_nothing_left()


@pytest.mark.cluster
@pytest.mark.slow
def test_compress_exits_with_3_if_the_gate_rejects(
    headrace: Command, home: Path, tmp_path: Path, tiny_recipe: Callable[..., object]
) -> None:
    damage = {"kind": "prune", "method": "magnitude", "ratio": 0.97}
    steps = [{"kind": "train", "epochs": 1}, damage]
    programs = [{"kinds": ["exported"]}]
    recipe = tiny_recipe("damaged", None, steps=steps, programs=programs).model_dump(mode="json")
    del recipe["gate"]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    store = tmp_path / "store"
    started = time.monotonic()
    done = headrace("compress", path, "--store", store, timeout_s=300)
    assert done.returncode == 3, done
    assert "rejected by the gate" in done.stdout, time.monotonic() - started
    assert "FAILED  max_accuracy_drop (default): " in done.stdout
    reports = list((store / "rejected").iterdir())
    assert {report.suffix for report in reports} == {".json", ".html"}
    assert all(report.name.startswith("damaged-") for report in reports)
    assert not (store / "names" / "damaged").exists()
    headrace.assert_nothing_left()


def write_config(directory: Path, port: int, artifact: str = "tiny-int8", **args: Any) -> Path:
    catalog = {"name": "server", "route_prefix": "/v2", "import_path": "deployments.app:catalog"}
    tiny = serve_config.model("tiny", artifact, **args)
    return serve_config.write(directory, catalog, tiny, http_options={"port": port})


def _interruptible_compress(headrace: Command, directory: Path) -> subprocess.Popen[str]:
    """Start a job; return once its cluster has begun to start."""
    recipe = directory / "recipe.yaml"
    recipe.write_text("{name: good, model: {source: 'torchvision:resnet18'}}")
    process = headrace.start("compress", recipe, HEADRACE_STORE=str(directory / "store"))
    until(headrace.runs_cluster)
    return process
