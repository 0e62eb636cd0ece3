"""What a cluster that grows on demand will have, as `render` writes it down for a cut model."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config.parallel import Parallel
from cluster.config.serving import ModelArgs
from cluster.errors import PlanError
from deployments.shards import placement


def test_a_cut_model_is_placed_before_its_pods_are_there(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ModelArgs(
        name="cut", artifact="cut", store=str(store), parallel=Parallel(pipeline=2, tensor=1)
    )
    monkeypatch.setenv(placement.DEVICES_VARIABLE, "2xcpu-x86@8")
    placed = placement.placed(args)  # no Ray is asked
    assert placed is not None
    assert placed.layout == "cpu-x86/aoti/pp2.tp1"
    assert placed.bundles == [{"memory": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]
    monkeypatch.setenv(placement.DEVICES_VARIABLE, "1xcpu-x86")
    with pytest.raises(PlanError, match="needs 2 devices of cpu-x86, there are 1"):
        placement.placed(args)
