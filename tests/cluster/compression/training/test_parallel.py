"""Devices and backends of several training processes; the launcher's tests run gangs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn

from cluster.compression.training.descent import gpu_of
from cluster.compression.training.parallel import backend_for
from cluster.compression.training.peers import Peers


@pytest.mark.parametrize(
    ("gpus", "backend"),
    [
        (["a", "b"], "nccl"),
        (["a", "a"], "gloo"),  # nccl refuses two processes on one GPU
        (["a", "b", "a"], "gloo"),
        (["a", ""], "gloo"),
        (["", ""], "gloo"),
    ],
)
def test_nccl_is_used_only_with_one_gpu_per_process(gpus: list[str], backend: str) -> None:
    assert backend_for(gpus) == backend


def test_gloo_processes_do_not_use_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Peers().on_gpus
    for backend, expected in (("nccl", True), ("gloo", False)):
        monkeypatch.setattr(distributed, "get_backend", lambda backend=backend: backend)
        assert Peers(0, 2).on_gpus is expected


def test_gpu_is_named_by_id_and_traced_graph_uses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    properties = SimpleNamespace(uuid="GPU-1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    layer = nn.Linear(2, 2)
    assert gpu_of(layer) == "GPU-1"
    assert gpu_of(torch.fx.symbolic_trace(layer)) == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_of(layer) == ""
