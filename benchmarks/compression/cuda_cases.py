"""Cases for a GPU: half precision and float8 programs of two image classifiers beside eager.

Random weights, which change no timing. They run only when ``--only`` names them.
"""

from __future__ import annotations

from functools import partial

from benchmarks.artifacts.builder import OPEN_GATE
from benchmarks.compression.builds import ReportingBuilder
from benchmarks.compression.cases import CompressionCase, Outcome
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.goals import at_least
from cluster.program import node

SCHEMES = ("bf16", "float8")
BATCHES = (1, 64)


def on_cuda(recipe: str, builder: ReportingBuilder) -> Outcome:
    """Build a program per scheme; the goal is that one of them beats eager float32."""
    targets = [target for target in node.targets() if target.startswith("cuda-")]
    if not targets:
        raise BenchmarkError(
            "this case needs an NVIDIA GPU, and nvidia-smi lists none; run it on a machine with one"
        )
    evaluation = builder.recipe(recipe).evaluation.model_dump(mode="json") | {"batches": BATCHES}
    builds = tuple(
        builder.measure(
            scheme,
            builder.recipe(
                recipe,
                name=f"benchmark-{recipe}-{scheme}",
                gate=OPEN_GATE,
                steps=[{"kind": "quantize", "scheme": scheme}],
                evaluation=evaluation,
                programs=[{"target": targets[0]}],
            ),
        )
        for scheme in SCHEMES
    )
    goals = tuple(
        at_least(
            f"latency at batch {batch}, to eager float32",
            max(build.speedup(batch) for build in builds),
            1.0,
        )
        for batch in BATCHES
    )
    return builds, goals


CUDA_CASES: dict[str, CompressionCase] = {
    case.key: case
    for case in (
        CompressionCase(
            "cuda-vit_b_16", "ViT-B/16 on a GPU", 10, partial(on_cuda, "vit_b_16-dynamic")
        ),
        CompressionCase(
            "cuda-resnet50", "ResNet-50 on a GPU", 10, partial(on_cuda, "resnet50-int8")
        ),
    )
}
"""Cases by the name that ``--only`` takes."""
