"""Cases of the parallelism benchmark: a model, its cut, and the peers beside it.

ParallelCase → recipe() → the job → artifact with one layout, all of one kind
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.artifacts.builder import OPEN_GATE
from benchmarks.parallelism.fed import BATCHES, CUT, WHOLE
from benchmarks.parallelism.inputs import INPUTS
from cluster.config.base import parse
from cluster.config.recipe import Recipe

CHAIN, TORCH, ACCELERATE = "ray-chain", "torch-pipelining", "accelerate"

_HEADRACE = (WHOLE, CUT)
_TINY = {"resnet50": "tiny_resnet", "bert_base": "tiny_bert"}


@dataclass(frozen=True)
class ParallelCase:
    """One model with one cut, and the subjects that are compared."""

    key: str
    title: str
    model: str
    """Name of a function in ``models``, and of its inputs in ``inputs``."""
    kind: str
    pipeline: int
    tensor: int
    subjects: tuple[str, ...]
    """Headrace's replicas and the peers, which take turns."""
    repeats: int = 30
    """Timed runs of every program while the artifact is built."""

    def quick(self) -> ParallelCase:
        """Return the case with a tiny model, and without minutes of compiling."""
        kind = "exported" if self.kind == "aoti" else self.kind
        title = f"{self.title} (a tiny model, {kind})"
        return replace(self, title=title, model=_TINY[self.model], kind=kind, repeats=5)

    def recipe(self) -> Recipe:
        """Return the recipe: nothing is compressed, programs of one kind, one cut."""
        cut = {"pipeline": self.pipeline, "tensor": self.tensor, "kind": self.kind}
        tensor = INPUTS[self.model].model_dump(mode="json")
        package = "benchmarks.parallelism"
        raw: dict[str, Any] = {
            "name": f"benchmark-parallel-{self.key}-{self.model}".replace("_", "-"),
            "model": {"source": f"python:{package}.models:{self.model}", "tensor": tensor},
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
        ParallelCase(
            "resnet50-openvino",
            "ResNet-50, 2 stages, OpenVINO",
            "resnet50",
            "openvino",
            2,
            1,
            (*_HEADRACE, CHAIN),
        ),
        ParallelCase(
            "resnet50-aoti",
            "ResNet-50, 2 stages, AOTInductor",
            "resnet50",
            "aoti",
            2,
            1,
            (*_HEADRACE, CHAIN, TORCH, ACCELERATE),
        ),
        ParallelCase(
            "bert-openvino",
            "BERT-base, 2 stages, OpenVINO",
            "bert_base",
            "openvino",
            2,
            1,
            (*_HEADRACE, CHAIN),
        ),
        ParallelCase(
            "bert-aoti",
            "BERT-base, 2 stages, AOTInductor",
            "bert_base",
            "aoti",
            2,
            1,
            (*_HEADRACE, CHAIN, TORCH, ACCELERATE),
        ),
        ParallelCase(
            "bert-tensor",
            "BERT-base, 2 tensor ranks, AOTInductor",
            "bert_base",
            "aoti",
            1,
            2,
            _HEADRACE,
        ),
    )
}
"""Cases by the name that ``--only`` takes."""
