"""Dockerfile: its steps, run without a container engine, and the wheel that they install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import dockerfile
import pytest
import yaml
from synthetic_artifacts import publish

ROOT = Path(__file__).parents[2]
BEFORE, STAGES = dockerfile.stages(ROOT / "k8s" / "Dockerfile")
DIGEST = "rayproject/ray@sha256:" + "0123456789abcdef" * 4


def run(step: str, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one RUN step in the shell of the Dockerfile."""
    environment = {"PATH": str(path) if path is not None else os.environ["PATH"], **variables}
    return subprocess.run(
        [*dockerfile.shell(STAGES), step], env=environment, capture_output=True, text=True
    )


def test_base_is_an_argument_without_default() -> None:
    assert BEFORE == ["ARG RAY_IMAGE"]
    assert STAGES["base"].base == "${RAY_IMAGE}"
    assert [stage.base for stage in STAGES.values()][1:] == ["base", "base", *["installed"] * 2]
    assert list(STAGES)[-1] == "serving"  # the default target of a build


@pytest.mark.parametrize(
    ("image", "accepted"),
    [
        (DIGEST, True),
        ("", False),
        ("rayproject/ray:2.60.0", False),
        ("rayproject/ray@sha256:0123", False),
        (f"{DIGEST}0", False),
        ("@sha256:" + "0" * 64, False),
    ],
)
def test_base_without_digest_is_refused(image: str, accepted: bool) -> None:
    instruction, step = STAGES["base"].steps[2]
    assert instruction == "RUN"
    done = run(step, RAY_IMAGE=image)
    assert (done.returncode == 0) is accepted
    assert accepted or f"RAY_IMAGE={image} has no digest; give NAME@sha256:" in done.stderr


def test_base_with_old_python_is_refused(tmp_path: Path) -> None:
    step = STAGES["base"].all("RUN")[1]
    assert run(step, Path(sys.executable).parent).returncode == 0
    (tmp_path / "python").write_text(
        f"#!{shutil.which('bash')}\n[ $1 = --version ] && echo Python 3.10.19; exit 1\n"
    )
    (tmp_path / "python").chmod(0o755)
    done = run(step, tmp_path)
    assert done.returncode == 1
    assert "the base has Python 3.10.19, Headrace needs 3.11 or newer" in done.stderr


def test_base_without_wget_is_refused(tmp_path: Path) -> None:
    step = STAGES["base"].all("RUN")[2]
    for tool in ("bash", "grep"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    done = run(step, tmp_path)
    assert done.returncode == 1
    assert "the base has no wget, which KubeRay's probes call" in done.stderr
    (tmp_path / "wget").symlink_to("/bin/true")
    assert run(step, tmp_path).returncode == 0


def test_only_the_compression_image_has_a_compiler(tmp_path: Path) -> None:
    installing = {
        name: [step for step in stage.all("RUN") if "apt-get install" in step]
        for name, stage in STAGES.items()
    }
    assert [name for name, steps in installing.items() if steps] == ["compression"]
    assert "g++" in installing["compression"][0]
    _, purge, check = STAGES["serving"].all("RUN")
    for tool in ("bash", "grep", "xargs"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    assert run(check, tmp_path).returncode == 0
    (tmp_path / "g++").symlink_to("/bin/true")
    done = run(check, tmp_path)
    assert done.returncode == 1
    assert "the serving image has g++" in done.stderr
    # It purges exactly the compilers among the packages.
    packages = "bash cpp cpp-13 g++ g++-13 g++-13-x86-64-linux-gnu gcc gcc-13 gcc-13-base libgcc-s1"
    (tmp_path / "dpkg-query").write_text(f"#!{tmp_path}/bash\nprintf '%s\\n' {packages}\n")
    (tmp_path / "apt-get").write_text(f'#!{tmp_path}/bash\necho "$@"\n')
    for tool in ("dpkg-query", "apt-get"):
        (tmp_path / tool).chmod(0o755)
    done = run(purge, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "purge --yes --auto-remove cpp cpp-13 g++ g++-13 g++-13-x86-64-linux-gnu gcc gcc-13\n"
    )
    (tmp_path / "dpkg-query").write_text(f"#!{tmp_path}/bash\necho bash\n")
    assert run(purge, tmp_path).stdout == ""  # nothing to purge


def test_haproxy_is_at_the_path_of_the_manifests(tmp_path: Path) -> None:
    step = STAGES["serving"].all("RUN")[0]
    assert "/usr/local/bin/headrace-haproxy" in step
    for _ in range(2):  # the second time, the file exists
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = run(step.replace("/usr/local/bin", str(tmp_path)), PATH=path)
        assert done.returncode == 0, done.stderr
    assert os.access(tmp_path / "headrace-haproxy", os.X_OK)


def test_dockerfile_accepts_an_index_and_names_none() -> None:
    steps = STAGES["installed"].steps
    before = steps[: [instruction for instruction, _ in steps].index("RUN")]
    assert ("ARG", "PIP_EXTRA_INDEX_URL=") in before  # pip ignores an empty one
    assert "://" not in (ROOT / "k8s" / "Dockerfile").read_text()


def test_images_do_not_run_as_root() -> None:
    for name in ("serving", "compression"):
        assert STAGES[name].all("USER") == ["root", "1000"]
        assert STAGES[name].steps[-1] == ("USER", "1000")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel, built by the COPY and RUN steps of the Dockerfile."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: nothing builds the wheel")
    root = tmp_path_factory.mktemp("image")
    for step in STAGES["wheel"].all("COPY"):
        *sources, to = step.split()
        for source in sources:
            target = root / to.strip("/")
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, target, ignore=ignore)
            else:
                target.mkdir(exist_ok=True)
                shutil.copy(ROOT / source, target)
    (step,) = STAGES["wheel"].all("RUN")
    # The requirements of the build are installed here.
    step = step.replace(" --no-deps", " --no-deps --no-build-isolation")
    step = step.replace("/tmp/wheels", f"{root}/wheels").replace("/src", f"{root}/src")
    done = run(step, HOME=str(root), PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (root / "wheels").glob("*.whl")
    return path


def test_build_copies_exactly_the_allowed_files(wheel: Path) -> None:
    allowed = (ROOT / "k8s" / "Dockerfile.dockerignore").read_text().split()
    copied = [word for step in STAGES["wheel"].all("COPY") for word in step.split()[:-1]]
    assert {f"!{path}" for path in copied} == {line for line in allowed if line.startswith("!")}
    names = zipfile.ZipFile(wheel).namelist()
    for file in (
        "deployments/app.py",
        "headrace/command.py",
        "deployments/configs/digits.yaml",
        "deployments/recipes/digits-int8.yaml",
        "deployments/kubernetes/schemas.json.gz",
        "deployments/kubernetes/k8s/base/rayservice.serving.yaml",
        "deployments/kubernetes/k8s/overlays/ha/redis/kustomization.yaml",
        "cluster/compression/report/templates/page.html.j2",
        "cluster/compression/report/templates/page.css",
    ):
        assert file in names


def test_installed_wheel_renders(wheel: Path, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)  # as by `pip install --no-deps --target`
    publish(tmp_path / "store", "plain", "cpu-x86")
    code = (
        "import sys, deployments; from deployments.cli.main import main; "
        f"assert deployments.__file__.startswith({str(site)!r}), deployments.__file__; "
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "k8s",
            "render",
            "--model",
            "plain",
            "--store",
            tmp_path / "store",
            "--image",
            DIGEST,
            "--overlay",
            "ha/rocksdb",
        ],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kinds = [obj["kind"] for obj in yaml.safe_load_all(done.stdout)]
    assert "RayService" in kinds
