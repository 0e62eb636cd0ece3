"""Job of ``headrace compress``: its address, and errors of an unavailable cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from cluster.config.recipe import Recipe
from cluster.errors import ClusterError, ConfigError
from deployments.cli import compress
from deployments.jobs import compress as job
from deployments.jobs.result import WRONG, JobResult, last_result
from deployments.local import ports


def test_address_argument_overrides_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    address, first, second = (f"http://127.0.0.1:{port}" for port in ports.free_ports(3))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", first)
    monkeypatch.setenv("RAY_ADDRESS", second)
    recipe = Recipe.model_validate({"name": "any", "model": {"source": "torchvision:resnet18"}})
    with pytest.raises(ClusterError, match=f"at address: {address}"):
        compress.submit(recipe, Path(), "/store", address)


class Client:
    """Client of a job with these log chunks, whose details are then ``outcomes`` in order."""

    def __init__(self, chunks: list[str], *outcomes: JobDetails | Exception) -> None:
        self._chunks = chunks
        self._outcomes = iter(outcomes)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for chunk in self._chunks:
            yield chunk

    def get_job_logs(self, job: str) -> str:
        return "".join(self._chunks)

    def get_job_info(self, job: str) -> JobDetails:
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class BrokenLog(Client):
    """Client whose log breaks off after its first line."""

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "one line\n"
        raise RuntimeError("closed unexpectedly")


RESULT = JobResult(0, "ab" * 32)


def details(status: JobStatus, exit_code: int | None = None) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION, status=status, entrypoint="", driver_exit_code=exit_code
    )


@pytest.mark.parametrize("end", ["\n", "", "\nan atexit handler's line\n"])
def test_result_in_the_log_is_returned_and_not_shown(
    end: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line = RESULT.to_line() + end
    client = Client(["one line\n\n50% ", line[:30], line[30:]], details(JobStatus.SUCCEEDED, 0))
    assert compress.wait(client, "job-1") == RESULT
    assert capfd.readouterr().out == "one line\n\n50% \n" + end.removeprefix("\n")


def test_job_without_result_has_its_exit_status() -> None:
    client = Client(["one line\n"], details(JobStatus.FAILED, -9))
    assert compress.wait(client, "job-1") == JobResult(-9)


def test_job_is_awaited_after_its_log_breaks_off(capfd: pytest.CaptureFixture[str]) -> None:
    chunks = ["one line\n", RESULT.to_line()]
    client = BrokenLog(chunks, details(JobStatus.RUNNING), details(JobStatus.SUCCEEDED, 0))
    assert compress.wait(client, "job-1") == RESULT
    out, err = capfd.readouterr()
    assert "one line" in out
    assert "the log of job job-1 broke off: closed unexpectedly" in err


def test_unavailable_cluster_is_reported_with_job(capfd: pytest.CaptureFixture[str]) -> None:
    client = BrokenLog([], details(JobStatus.RUNNING), ConnectionError("refused"))
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
    assert job.main() == WRONG
    out = capfd.readouterr().out
    assert f"error: {path}: model" in out
    result = last_result(out)
    assert result is not None
    assert f"{path}: modle" in str(result.error)
    assert type(result.error) is ConfigError
