"""Placement of a cut model on a cluster that grows on demand, by the devices `render` declares."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.artifact.served import bind
from cluster.config.parallel import Parallel
from cluster.config.serving import ModelArgs
from cluster.errors import PlanError
from deployments.shards import placement


def test_cut_model_is_placed_before_its_pods_exist(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ModelArgs(
        name="cut", artifact="cut", store=str(store), parallel=Parallel(pipeline=2, tensor=1)
    )
    bound = bind(args)
    monkeypatch.setenv(placement.DEVICES_VARIABLE, "2xcpu-x86@8")
    placed = placement.place(bound)  # without a call to Ray
    assert placed is not None
    assert placed.layout == "cpu-x86/aoti/pp2.tp1"
    assert placed.bundles == [{"memory": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]
    monkeypatch.setenv(placement.DEVICES_VARIABLE, "1xcpu-x86")
    with pytest.raises(PlanError, match="needs 2 devices of cpu-x86, there are 1"):
        placement.place(bound)
