"""RayJob with a submitter that starts twice: one artifact."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml
from operator_calls import Operator, Submitter
from support.http_client import ask

from cluster.artifact.local import LocalStore


@pytest.mark.slow
@pytest.mark.fault("a compression job's submitter is started twice, or the job")
def test_restarted_submitter_and_repeated_job_give_one_artifact(
    operator: Operator, tiny_recipe, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    config = tiny_recipe("tiny-job", None, programs=[{"kinds": ["exported"]}])
    text = config.model_dump(mode="json", exclude_unset=True)
    recipe.write_text(yaml.safe_dump(text))
    store = tmp_path / "store"
    submitter = Submitter(
        operator.cluster,
        {"HEADRACE_STORE": str(store), "PYTHONPATH": os.environ["PYTHONPATH"]},
    )
    entrypoint = [sys.executable, "-m", "deployments.jobs.compress", str(recipe)]

    first = submitter.run("headrace-compression-x7k2p", entrypoint, timeout_s=300)
    assert "SUCCEEDED" in submitter.status("headrace-compression-x7k2p").upper(), first
    (artifact,) = (store / "artifacts").iterdir()

    # The submitter's pod starts again, for example after an eviction: it follows the same job.
    again = submitter.run("headrace-compression-x7k2p", entrypoint, timeout_s=60)
    assert _job_lines(again) == _job_lines(first) != []
    # Ray refuses a second submission of the same id.
    refused = submitter.submit("headrace-compression-x7k2p", entrypoint, check=False)
    assert refused.returncode != 0
    assert "already exists" in refused.stdout + refused.stderr

    # Another id, as for a RayJob deleted and applied again: the earlier build is reused.
    submitter.run("headrace-compression-q9d4m", entrypoint, timeout_s=120)
    assert "SUCCEEDED" in submitter.status("headrace-compression-q9d4m").upper()
    assert list((store / "artifacts").iterdir()) == [artifact]
    assert LocalStore(store).open("tiny-job").id == artifact.name


@pytest.mark.slow
def test_job_api_refuses_requests_without_token(operator: Operator) -> None:
    url = f"{operator.cluster.dashboard}/api/jobs/"
    wrong = {"x-ray-authorization": "Bearer " + "0" * 64}
    for headers, status in [({}, 401), (wrong, 403)]:
        answer = ask(url, b'{"entrypoint": "true"}', headers | {"Content-Type": "application/json"})
        assert answer.status == status
    right = operator._headers
    assert ask(url, headers=right).json == []


def _job_lines(log: str) -> list[str]:
    """Return the job's lines of a log, without those of `ray job logs`, which hold the time."""
    return [line for line in log.splitlines() if "SUCC" not in line and "INFO" not in line]
