"""Cuts of a finished model: their places, costs and programs.

aoti, exported   Work.module → traced → one module per stage → compiled separately
openvino         the whole program's graph → cut (programs/openvino_stages.py)
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch.fx import GraphModule, Node

from cluster.artifact.entries import ProgramEntry
from cluster.compression.equivalence import check_rewrite
from cluster.compression.indexing import checked_work
from cluster.compression.indexing.limits import Limits
from cluster.compression.programs import builder, openvino_stages
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.work import Job, Work, tensors_of
from cluster.errors import PlanError
from cluster.parallel import costs, graph, pipeline
from cluster.parallel.graph import CutPoint, node_bytes
from cluster.tensors import TensorSpec


@dataclass(frozen=True)
class BuiltShard:
    """Program of one stage on one rank, and the tensors that it computes with."""

    entry: ProgramEntry
    outputs: tuple[TensorSpec, ...]
    weights: dict[str, torch.Tensor]


COST_BATCH = 4
"""Batch size for timing operators, between a single request and a full batch."""

_REDUCES = "all_reduce"


class Cuttable(ABC):
    """Model with one kind of program, before it is cut."""

    kind: str
    target: str

    @cached_property
    @abstractmethod
    def graph(self) -> GraphModule:
        """Operators of the model; cuts refer to their order."""

    @cached_property
    @abstractmethod
    def cuts(self) -> list[CutPoint]:
        """Every possible cut."""

    @abstractmethod
    def build(
        self, chosen: Sequence[CutPoint], stages: Sequence[Sequence[ProgramFiles]]
    ) -> list[list[BuiltShard]]:
        """Build the shards of each stage. ``stages``: files by stage, then by rank."""

    @cached_property
    def operator_ms(self) -> dict[str, float]:
        """Milliseconds of each operator on the cost batch, by its node's name."""
        return costs.operator_ms(self.graph, self.inputs, COST_BATCH, 1)

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.inputs, self.outputs = inputs, outputs

    def reduces(self, chosen: Sequence[int]) -> tuple[int, ...]:
        """Return the number of all-reduces in each stage. ``chosen``: indices into ``cuts``."""
        segment_of = self.segment_of()
        counts = [0] * (len(chosen) + 1)
        for node in self._reducing():
            counts[bisect.bisect_left(list(chosen), segment_of[node.name])] += 1
        return tuple(counts)

    @property
    def reduced_bytes(self) -> int:
        """Bytes per item of the largest all-reduce."""
        return max((node_bytes(node) for node in self._reducing()), default=0)

    def _reducing(self) -> list[Node]:
        return [n for n in self.graph.graph.nodes if graph.operator_name(n) == _REDUCES]

    def segment_of(self) -> dict[str, int]:
        """Return each operator's node → index of its segment between cuts, from 0."""
        order = {node.name: index for index, node in enumerate(self.graph.graph.nodes)}
        borders = [order[cut.after] for cut in self.cuts]
        return {name: bisect.bisect_left(borders, index) for name, index in order.items()}


class Traced(Cuttable):
    """Model of a kind that compiles each stage separately, with one module per rank."""

    def __init__(
        self,
        kind: str,
        target: str,
        ranks: Sequence[Work],
        outputs: tuple[TensorSpec, ...],
        job: Job,
        limits: Limits,
    ) -> None:
        """``limits``: ranges for which the model's inputs are checked before it runs."""
        super().__init__(ranks[0].inputs, outputs)
        self.kind, self.target = kind, target
        self._ranks, self._job, self._limits = ranks, job, limits

    @cached_property
    def graph(self) -> GraphModule:
        return graph.trace(self._ranks[0].module, self.inputs)

    @cached_property
    def cuts(self) -> list[CutPoint]:
        return graph.cuts(self.graph.graph)

    def build(
        self, chosen: Sequence[CutPoint], stages: Sequence[Sequence[ProgramFiles]]
    ) -> list[list[BuiltShard]]:
        built: list[list[BuiltShard]] = [[] for _ in stages]
        for rank, work in enumerate(self._ranks):
            modules = pipeline.split(work.module, self.inputs, self.outputs, chosen)
            if len(self._ranks) == 1:  # a slice alone cannot sum
                self._check_stages(modules, work)
            for number, stage in enumerate(modules):
                files = stages[number][rank]
                checked = checked_work.of(
                    _part(work, stage), limits=self._limits.among(stage.inputs)
                )
                entry = builder.build_one(checked, self.kind, self.target, files, self._job)
                entry = entry.model_copy(update={"inputs": stage.inputs})
                built[number].append(BuiltShard(entry, stage.outputs, tensors_of(stage.module)))
        return built

    def _check_stages(self, stages: Sequence[pipeline.Stage], work: Work) -> None:
        check_rewrite(
            pipeline.joined(stages),
            work.module,
            self._job.probes,
            f"the model in {len(stages)} stages",
            "change its forward so that no operator changes a tensor in place, or remove this "
            "entry of parallel",
        )


def _part(work: Work, stage: pipeline.Stage) -> Work:
    """Return the work of one stage, which is compiled from its own module alone."""
    precision = work.precision and replace(work.precision, float_module=stage.module)
    return replace(work, module=stage.module, inputs=stage.inputs, precision=precision, part=True)


class Sliced(Cuttable):
    """Model with a whole OpenVINO program, whose graph is cut."""

    kind = "openvino"

    def __init__(
        self, work: Work, outputs: tuple[TensorSpec, ...], whole: ProgramEntry, files: ProgramFiles
    ) -> None:
        super().__init__(work.inputs, outputs)
        self.target = whole.target
        self._work, self._whole, self._files = work, whole, files

    @cached_property
    def graph(self) -> GraphModule:
        return openvino_stages.graph_of(self._work)

    @cached_property
    def cuts(self) -> list[CutPoint]:
        return openvino_stages.cuts_of(self.graph, self._whole, self._files)

    def build(
        self, chosen: Sequence[CutPoint], stages: Sequence[Sequence[ProgramFiles]]
    ) -> list[list[BuiltShard]]:
        if any(len(ranks) > 1 for ranks in stages):
            raise PlanError("kind openvino cannot be cut into tensor slices; use aoti")
        programs = openvino_stages.build(
            self._whole,
            self._files,
            self.inputs,
            [cut.specs for cut in chosen],
            [ranks[0] for ranks in stages],
        )
        segment_of = self.segment_of()
        borders = [self.cuts.index(cut) for cut in chosen]
        built = []
        for stage, (entry, outputs) in enumerate(programs):
            nodes = {n for n, s in segment_of.items() if bisect.bisect_left(borders, s) == stage}
            weights = openvino_stages.weights_between(self.graph, nodes)
            final = stage == len(programs) - 1
            built.append([BuiltShard(entry, self.outputs if final else outputs, weights)])
        return built
