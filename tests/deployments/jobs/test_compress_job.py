"""Job of ``headrace compress``: its address, and errors of an unavailable cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from cluster.config.recipe import Recipe
from cluster.errors import ClusterError
from deployments.cli import compress
from deployments.jobs import compress as job
from deployments.local import ports


def test_address_argument_overrides_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    address, first, second = (f"http://127.0.0.1:{port}" for port in ports.free_ports(3))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", first)
    monkeypatch.setenv("RAY_ADDRESS", second)
    recipe = Recipe.model_validate({"name": "any", "model": {"source": "torchvision:resnet18"}})
    with pytest.raises(ClusterError, match=f"at address: {address}"):
        compress.submit(recipe, Path(), "/store", address)


class BrokenLog:
    """Client whose log breaks off, and which then returns ``outcomes`` in order."""

    def __init__(self, *outcomes: JobDetails | Exception) -> None:
        self._outcomes = iter(outcomes)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "one line\n"
        raise RuntimeError("closed unexpectedly")

    def get_job_info(self, job: str) -> JobDetails:
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def details(status: JobStatus, exit_code: int | None = None) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION, status=status, entrypoint="", driver_exit_code=exit_code
    )


def test_job_is_awaited_after_its_log_breaks_off(capfd: pytest.CaptureFixture[str]) -> None:
    client = BrokenLog(details(JobStatus.RUNNING), details(JobStatus.FAILED, 3))
    assert compress.wait(client, "job-1") == 3
    out, err = capfd.readouterr()
    assert "one line" in out
    assert "the log of job job-1 broke off: closed unexpectedly" in err


def test_unavailable_cluster_is_reported_with_job(capfd: pytest.CaptureFixture[str]) -> None:
    client = BrokenLog(details(JobStatus.RUNNING), ConnectionError("refused"))
    with pytest.raises(ClusterError, match="job job-1 may still run there: refused"):
        compress.wait(client, "job-1")


def test_job_accepts_recipe_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # As in KubeRay's RayJob: the store is a variable's, paths are relative to the file.
    monkeypatch.setenv("HEADRACE_STORE", "/store")
    (tmp_path / "mine.safetensors").touch()
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "{name: any, model: {source: 'torchvision:resnet18', weights: mine.safetensors}}"
    )
    recipe, store = job._task([str(path)])
    assert (recipe.name, store) == ("any", "/store")
    assert recipe.model.weights == str(tmp_path / "mine.safetensors")
    path.write_text("{name: any, modle: {}}")
    monkeypatch.setattr("sys.argv", ["compress", str(path)])
    assert job.main() == job.WRONG
    assert f"{path}: modle" in capfd.readouterr().out
