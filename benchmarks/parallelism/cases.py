"""The cases: a model, how it is cut, and what is measured beside it.

Case → recipe() → the job → artifact with one layout, all of one kind
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.compression_build import OPEN_GATE
from benchmarks.parallelism.inputs import INPUTS
from benchmarks.parallelism.results import BATCHES, CUT, WHOLE
from cluster.config.base import parse
from cluster.config.recipe import Recipe

CHAIN, TORCH, ACCELERATE = "ray-chain", "torch-pipelining", "accelerate"

_HEADRACE = (WHOLE, CUT)
_TINY = {"resnet50": "tiny_resnet", "bert_base": "tiny_bert"}


@dataclass(frozen=True)
class Case:
    """One section of the report."""

    key: str
    title: str
    model: str
    """A function of ``models``, and its inputs in ``inputs``."""
    kind: str
    pipeline: int
    tensor: int
    subjects: tuple[str, ...]
    """What takes turns: Headrace's replicas, and peers."""
    repeats: int = 30
    """Timed runs of every program while the artifact is built."""

    def quick(self) -> Case:
        """The same with a tiny model, and without compiling for minutes."""
        kind = "exported" if self.kind == "aoti" else self.kind
        title = f"{self.title} (a tiny model, {kind})"
        return replace(self, title=title, model=_TINY[self.model], kind=kind, repeats=5)

    def recipe(self) -> Recipe:
        """What the compression job builds: nothing is compressed, one kind, one cut."""
        cut = {"pipeline": self.pipeline, "tensor": self.tensor, "kind": self.kind}
        given = INPUTS[self.model].model_dump(mode="json")
        package = "benchmarks.parallelism"
        raw: dict[str, Any] = {
            "name": f"benchmark-parallel-{self.key}-{self.model}".replace("_", "-"),
            "model": {"source": f"python:{package}.models:{self.model}", "tensor": given},
            "data": {"source": f"python:{package}.inputs:{self.model}"},
            "evaluation": {
                "samples": 8,
                "metrics": ["cosine"],
                "repeats": self.repeats,
                "batches": list(BATCHES),
            },
            "gate": OPEN_GATE,
            "programs": [{"kinds": [self.kind]}],
            "parallel": [cut],
        }
        return parse(raw, Recipe, self.key)


CASES = {
    case.key: case
    for case in (
        Case("resnet50-openvino", "ResNet-50, 2 stages, OpenVINO", "resnet50", "openvino", 2, 1,
             (*_HEADRACE, CHAIN)),
        Case("resnet50-aoti", "ResNet-50, 2 stages, AOTInductor", "resnet50", "aoti", 2, 1,
             (*_HEADRACE, CHAIN, TORCH, ACCELERATE)),
        Case("bert-openvino", "BERT-base, 2 stages, OpenVINO", "bert_base", "openvino", 2, 1,
             (*_HEADRACE, CHAIN)),
        Case("bert-aoti", "BERT-base, 2 stages, AOTInductor", "bert_base", "aoti", 2, 1,
             (*_HEADRACE, CHAIN, TORCH, ACCELERATE)),
        Case("bert-tensor", "BERT-base, 2 tensor ranks, AOTInductor", "bert_base", "aoti", 1, 2,
             _HEADRACE),
    )
}  # fmt: skip
