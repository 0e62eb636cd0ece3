"""``k8s/kind.sh`` with stubs of its tools, which log their arguments: kind needs an engine."""

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
    """Stubs of the tools, each of which logs its arguments into ``log``.

    kubectl stores the applied overlay, and knows a job until it is deleted.
    """
    for tool in TOOLS:
        (tmp_path / tool).write_text(
            "#!/bin/bash\n"
            f'echo {tool} "$@" >> {tmp_path}/log\n'
            'case "$*" in\n'
            "  *' get secret'*|'get namespace'*) exit 1 ;;\n"
            "  inspect*) echo rayproject/ray@sha256:0123 ;;\n"
            f"  *'get rayjob'*) [ -e {tmp_path}/job ] || exit 0\n"
            f'    case "$*" in *annotations*) printf %s/ "$(cat {tmp_path}/job)" ;; esac\n'
            "    echo ${JOB_STATUS:-Complete} ;;\n"
            f"  *'delete rayjob'*) rm -f {tmp_path}/job ;;\n"
            '  "apply -k"*)\n'
            f'    cp "{SCRIPT.parents[1]}/$3/kustomization.yaml" {tmp_path}/applied.yaml\n'
            '    case "$*" in *component=compression)\n'
            f"      sed -n 's/.*headrace-build: \"\\(.*\\)\".*/\\1/p' {tmp_path}/applied.yaml"
            f" > {tmp_path}/job ;;\n"
            "    esac ;;\n"
            "esac\n"
            "exit 0\n"
        )
        (tmp_path / tool).chmod(0o755)
    return tmp_path


def start(tools: Path) -> subprocess.CompletedProcess[str]:
    path = f"{tools}:{os.environ['PATH']}"
    return subprocess.run(
        [SCRIPT], env={**os.environ, "PATH": path}, capture_output=True, text=True, cwd=tools
    )


def test_script_runs_its_steps_in_order(tools: Path) -> None:
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
        "--selector app.kubernetes.io/component notin (serving, compression)",
        "get rayjob headrace-compression",
        "--selector app.kubernetes.io/component=compression",
        "--selector app.kubernetes.io/component=serving",
        "wait rayservice/headrace",
    ]
    places = [log.find(step) for step in order]
    assert -1 not in places, log
    assert places == sorted(places), log
    assert not list(SCRIPT.parents[1].glob(".kind-*"))  # cleaned up
    assert (SCRIPT.parent / "Dockerfile").is_file()


def applied_jobs(tools: Path) -> int:
    return (tools / "log").read_text().count("--selector app.kubernetes.io/component=compression")


def test_second_run_keeps_the_job(tools: Path) -> None:
    for _ in range(2):
        done = start(tools)
        assert done.returncode == 0, done.stderr
    assert applied_jobs(tools) == 1
    assert (tools / "log").read_text().count("wait rayservice/headrace") == 2
    # The job of another recipe.
    (tools / "job").write_text("0123456789abcdef\n")
    assert start(tools).returncode == 0
    assert applied_jobs(tools) == 2


@pytest.mark.parametrize("status", ["Failed", "ValidationFailed"])
def test_failed_job_ends_the_run_and_is_replaced_next_time(
    tools: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setenv("JOB_STATUS", status)
    done = start(tools)
    assert done.returncode == 1
    assert "the compression job failed: kubectl --namespace headrace describe" in done.stderr
    assert "wait rayservice" not in (tools / "log").read_text()
    assert start(tools).returncode == 1
    assert applied_jobs(tools) == 2
    assert "delete rayjob headrace-compression" in (tools / "log").read_text()


def test_missing_tool_is_named(tools: Path) -> None:
    for tool in ("kind", "helm"):
        (tools / tool).unlink()
    done = subprocess.run(
        ["/bin/bash", SCRIPT], env={"PATH": f"{tools}:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "kind.sh: kind is not installed" in done.stderr


def test_written_overlay_builds(tools: Path) -> None:
    assert start(tools).returncode == 0
    whole = yaml.safe_load((tools / "applied.yaml").read_text())
    folder = tools / "overlay"
    folder.mkdir()
    base = os.path.relpath(overlay.k8s_dir() / "overlays" / "cpu-dev", folder.resolve())
    assert whole["resources"] == ["../k8s/overlays/cpu-dev"]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(whole | {"resources": [base]}))
    objects = overlay.build(folder)
    assert all(obj["metadata"]["namespace"] == "headrace" for obj in objects)
    text = yaml.safe_dump_all(objects)
    assert "image: headrace-serving:dev" in text
    assert "image: headrace-compression:dev" in text
    # Applied in turn: everything else, the job, the service.
    (job,) = [obj for obj in objects if obj["kind"] == "RayJob"]
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "compression"
    assert job["spec"]["suspend"] is False
    serving = [
        o
        for o in objects
        if o["metadata"]["labels"].get("app.kubernetes.io/component") == "serving"
    ]
    assert [obj["kind"] for obj in serving] == ["RayService"]
