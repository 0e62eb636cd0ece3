"""Command of the compression benchmark: python -m benchmarks.compression --help."""

from __future__ import annotations

import sys
from functools import partial

from benchmarks.compression.builds import ReportingBuilder
from benchmarks.compression.cases import CASES, CompressionCase, Outcome
from benchmarks.compression.cuda_cases import CUDA_CASES
from benchmarks.compression.table import markdown
from benchmarks.harness.case import Benchmark, Case, Context, PreparedCase
from benchmarks.harness.command import main
from benchmarks.harness.goals import Goal
from benchmarks.harness.results import Medians, Reading


def prepare(case: CompressionCase, context: Context) -> PreparedCase:
    """Return the case's only turn, which builds everything, and the goals that it judges."""
    print(f"about {case.minutes} minutes on 2 cores", flush=True)
    outcomes: list[Outcome] = []

    def turn() -> list[Reading]:
        outcomes.append(case.run(ReportingBuilder(context.store, context.quick)))
        builds, _ = outcomes[-1]
        return [build.reading() for build in builds]

    def goals(medians: Medians) -> tuple[Goal, ...]:
        return outcomes[-1][1]

    return PreparedCase({"builds": turn}, goals)


BENCHMARK = Benchmark(
    name="compression",
    cases={
        case.key: Case(case.title, partial(prepare, case))
        for case in (*CASES.values(), *CUDA_CASES.values())
    },
    markdown=markdown,
    packages=(
        "torch",
        "torchao",
        "torchvision",
        "torch-pruning",
        "transformers",
        "openvino",
        "nncf",
    ),
    settings=(),
    on_request=frozenset(CUDA_CASES),
    has_quick=True,
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
