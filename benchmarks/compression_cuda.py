"""Cases for a GPU: half precision and float8 programs of two image classifiers beside eager.

Their weights are random, which changes no timing. They run only where they are named.
"""

from __future__ import annotations

from functools import partial

from benchmarks.compression_build import OPEN_GATE, Builder
from benchmarks.compression_cases import Case, Measured
from benchmarks.errors import BenchmarkError
from benchmarks.goal import Goal
from cluster.program import node

SCHEMES = ("bf16", "float8")
BATCHES = (1, 64)


def on_cuda(recipe: str, builder: Builder) -> Measured:
    """One program per scheme; the goal is that one of them beats eager float32."""
    targets = [target for target in node.targets() if target.startswith("cuda-")]
    if not targets:
        raise BenchmarkError("this case needs an NVIDIA GPU, and nvidia-smi shows none")
    read = builder.recipe(recipe)
    evaluation = read.evaluation.model_dump(mode="json") | {"batches": BATCHES}
    builds = tuple(
        builder.build(
            scheme,
            builder.recipe(
                recipe, name=f"benchmark-{recipe}-{scheme}", gate=OPEN_GATE,
                steps=[{"kind": "quantize", "scheme": scheme}], evaluation=evaluation,
                programs=[{"target": targets[0]}],
            ),
        )
        for scheme in SCHEMES
    )  # fmt: skip
    goals = tuple(
        Goal(
            claim=f"latency at batch {batch}, to eager float32",
            measured=max(built.speedup(batch) for built in builds),
            limit=1.0,
            at_least=True,
            unit="×",
        )
        for batch in BATCHES
    )
    return builds, goals


CUDA_CASES: dict[str, Case] = {
    case.key: case
    for case in (
        Case("cuda-vit_b_16", "ViT-B/16 on a GPU", 10, partial(on_cuda, "vit_b_16-dynamic")),
        Case("cuda-resnet50", "ResNet-50 on a GPU", 10, partial(on_cuda, "resnet50-int8")),
    )
}
"""By the name that ``--only`` takes."""
