"""``headrace.plan`` and ``headrace plan`` compute one plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import headrace
from deployments.cli.main import main


@pytest.mark.parametrize("devices", [None, "2xcpu-x86:4GiB"])
def test_plan_is_that_of_the_command(
    cut_artifact_store: Path, capsys: pytest.CaptureFixture[str], devices: str | None
) -> None:
    store = str(cut_artifact_store)
    given = [] if devices is None else ["--devices", devices]
    assert main(["plan", "tiny-cut", "--store", store, "--json", *given]) == 0
    printed = json.loads(capsys.readouterr().out)
    for artifact in ("tiny-cut", headrace.load("tiny-cut", store).artifact):
        plan = headrace.plan(artifact, devices, store=store)
        assert (plan.pipeline, plan.memory_bytes) == (printed["pipeline"], printed["memory_bytes"])
        assert plan.latency_ms == pytest.approx(printed["latency_ms"])


def test_plan_that_does_not_fit_is_refused(cut_artifact_store: Path) -> None:
    with pytest.raises(headrace.PlanError, match="no plan for tiny-cut fits"):
        headrace.plan("tiny-cut", "1xcpu-x86:1KiB", store=cut_artifact_store)
    with pytest.raises(headrace.PlanError, match="expected COUNTxTARGET"):
        headrace.plan("tiny-cut", "two", store=cut_artifact_store)
