"""Pipeline stages: bit-identical to the whole model at every cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import FAMILIES, SkipsAStage, random_inputs
from torch import nn

from cluster.errors import PlanError
from cluster.parallel import graph
from cluster.parallel.pipeline import Stage, joined, split
from cluster.tensors import TensorSpec

QUICK = ("bert", "gpt2", "skips", "resnet18 bf16")
EXAMPLES = 2
"""Sets of cuts per model; tracing each takes seconds."""


def outputs_of(module: nn.Module, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    with torch.no_grad():
        answer = module(*random_inputs(specs, 1, 0))
    return (TensorSpec(name="logits", datatype="FP32", shape=(-1, *answer.shape[1:])),)


def chained(stages: list[Stage], inputs: list[torch.Tensor]) -> torch.Tensor:
    """Run the stages in turn, each on its arriving tensors only."""
    tensors = dict(zip([spec.name for spec in stages[0].arrives], inputs, strict=True))
    for stage in stages:
        assert set(tensors) == {spec.name for spec in stage.arrives}
        with torch.no_grad():
            outputs = stage.module(*(tensors[spec.name] for spec in stage.inputs))
        available = tensors | dict(zip([s.name for s in stage.outputs], outputs, strict=True))
        for spec in stage.leaves:
            assert available[spec.name].shape[1:] == spec.item_shape
            assert str(available[spec.name].dtype) == f"torch.{spec.dtype.name}"
        tensors = {spec.name: available[spec.name] for spec in stage.leaves}
    (answer,) = tensors.values()
    return answer


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FAMILIES]
)
@settings(max_examples=EXAMPLES, derandomize=True, database=None)
@given(data=st.data())
def test_stages_match_whole_model_bit_for_bit(family: str, data: st.DataObject) -> None:
    torch.manual_seed(0)
    module, specs = FAMILIES[family]()
    module.eval()
    outputs = outputs_of(module, specs)
    places = graph.cuts(graph.trace(module, specs).graph)
    indices = st.sets(st.integers(0, len(places) - 1), min_size=1, max_size=3)
    selected = [places[index] for index in sorted(data.draw(indices, "cuts"))]
    stages = split(module, specs, outputs, selected)
    assert len(stages) == len(selected) + 1
    for batch in (1, data.draw(st.integers(2, 9), "batch")):
        inputs = random_inputs(specs, batch, seed=batch)
        with torch.no_grad():
            expected = module(*inputs)
        names = [place.after for place in selected]
        assert torch.equal(chained(stages, inputs), expected), (names, batch)
        with torch.no_grad():
            assert torch.equal(joined(stages)(*inputs)[0], expected), (names, batch)


def test_stage_carries_tensor_for_later_stage() -> None:
    module = SkipsAStage().eval()
    specs = FAMILIES["skips"]()[1]
    places = graph.cuts(graph.trace(module, specs).graph)
    cuts = [place for place in places if len(place.carried) == 2][:3:2]
    stages = split(module, specs, outputs_of(module, specs), cuts)
    skipped = stages[0].leaves[0].name
    assert skipped in {spec.name for spec in stages[1].arrives}
    assert skipped in {spec.name for spec in stages[1].leaves}
    assert skipped not in {spec.name for spec in stages[1].inputs}
    assert skipped in {spec.name for spec in stages[2].inputs}


def test_stages_hold_disjoint_weights() -> None:
    module, specs = FAMILIES["resnet18"]()
    module.eval()
    places = graph.cuts(graph.trace(module, specs).graph)
    cuts = [places[len(places) // 3], places[2 * len(places) // 3]]
    stages = split(module, specs, outputs_of(module, specs), cuts)
    sizes = [sum(p.numel() for p in stage.module.parameters()) for stage in stages]
    assert sum(sizes) == sum(p.numel() for p in module.parameters())
    assert all(sizes)


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_trace_rejects_untraceable_model_with_its_line() -> None:
    spec = (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),)
    with pytest.raises(PlanError, match="cannot be exported as one graph") as refused:
        graph.trace(Branches(), spec)
    assert "test_pipeline.py" in str(refused.value)
    assert "x.sum() > 0" in str(refused.value)


def test_cuts_do_not_separate_fused_operators() -> None:
    module, specs = FAMILIES["resnet18"]()
    traced = graph.trace(module.eval(), specs).graph
    following = {node.name: node.next for node in traced.nodes}
    for place in graph.cuts(traced):
        assert graph.operator_name(following[place.after]) not in ("batch_norm", "relu")
