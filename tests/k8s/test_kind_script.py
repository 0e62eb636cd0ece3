"""``k8s/kind.sh`` with tools that only write down what they were asked: kind needs an engine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from deployments.kubernetes import overlay

pytestmark = pytest.mark.usefixtures("kustomize")
SCRIPT = overlay.k8s_dir() / "kind.sh"
TOOLS = ("docker", "git", "kind", "helm", "kubectl")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Each writes its arguments into ``log``; kubectl also keeps the overlay it is given."""
    for tool in TOOLS:
        (tmp_path / tool).write_text(
            "#!/bin/bash\n"
            f'echo {tool} "$@" >> {tmp_path}/log\n'
            'case "$*" in\n'
            "  *' get secret'*|'get namespace'*) exit 1 ;;\n"
            "  inspect*) echo rayproject/ray@sha256:0123 ;;\n"
            "  *'get rayjob'*) echo ${JOB_STATUS:-Complete} ;;\n"
            f'  "apply -k"*) cp "$3/kustomization.yaml" {tmp_path}/applied.yaml ;;\n'
            "esac\n"
        )
        (tmp_path / tool).chmod(0o755)
    return tmp_path


def start(tools: Path) -> subprocess.CompletedProcess[str]:
    path = f"{tools}:{os.environ['PATH']}"
    return subprocess.run(
        [SCRIPT], env={**os.environ, "PATH": path}, capture_output=True, text=True, cwd=tools
    )


def test_the_steps_are_taken_in_order(tools: Path) -> None:
    done = start(tools)
    assert done.returncode == 0, done.stderr
    log = (tools / "log").read_text()
    order = [
        "kind create cluster --name headrace",
        "git clone --quiet --depth 1 --branch v1.7.0",
        "helm upgrade --install kuberay-operator",
        "docker build --file k8s/Dockerfile --build-arg RAY_IMAGE=rayproject/ray@sha256:0123 "
        "--target serving",
        "kind load docker-image headrace-serving:dev",
        "--target compression",
        "kubectl create namespace headrace",
        "create secret generic headrace-ray-token --from-literal=auth_token=",
        "--selector app.kubernetes.io/component!=serving",
        "patch rayjob headrace-compression",
        "get rayjob headrace-compression",
        "--selector app.kubernetes.io/component=serving",
        "wait rayservice/headrace",
    ]
    places = [log.find(step) for step in order]
    assert -1 not in places, log
    assert places == sorted(places), log
    assert not list(SCRIPT.parents[1].glob(".kind-*"))  # cleaned up
    assert (SCRIPT.parent / "Dockerfile").is_file()


def test_a_failed_job_ends_it(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_STATUS", "Failed")
    done = start(tools)
    assert done.returncode == 1
    assert "the compression job failed: kubectl --namespace headrace describe" in done.stderr
    assert "wait rayservice" not in (tools / "log").read_text()


def test_a_tool_that_is_missing_is_named(tools: Path) -> None:
    for tool in ("kind", "helm"):
        (tools / tool).unlink()
    done = subprocess.run(
        ["/bin/bash", SCRIPT], env={"PATH": f"{tools}:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "kind.sh: kind is not installed" in done.stderr


def test_the_overlay_it_writes_is_a_good_one(tools: Path) -> None:
    assert start(tools).returncode == 0
    whole = yaml.safe_load((tools / "applied.yaml").read_text())
    made = tools / "made"
    made.mkdir()
    base = os.path.relpath(overlay.k8s_dir() / "overlays" / "cpu-dev", made.resolve())
    assert whole["resources"] == ["../k8s/overlays/cpu-dev"]
    (made / "kustomization.yaml").write_text(yaml.safe_dump(whole | {"resources": [base]}))
    objects = overlay.build(made)
    assert all(each["metadata"]["namespace"] == "headrace" for each in objects)
    text = yaml.safe_dump_all(objects)
    assert "image: headrace-serving:dev" in text
    assert "image: headrace-compression:dev" in text
    serving = [
        o
        for o in objects
        if o["metadata"]["labels"].get("app.kubernetes.io/component") == "serving"
    ]
    assert [each["kind"] for each in serving] == ["RayService"]
