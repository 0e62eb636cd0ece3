"""Evaluation of an artifact's programs, each loaded as by a replica, in a fresh process.

run(...) in the job ─ each program ─→ fresh_process → ProgramResult: program and baseline
                                    ↘ the fastest of each target → EvaluationResult

It ends at the first target without a working program, because the gate rejects the build then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from cluster.artifact.artifact import Artifact
from cluster.artifact.manifest import Measurement
from cluster.compression.evaluation.causes import likely_causes
from cluster.compression.evaluation.fresh_process import measure_in_process
from cluster.compression.evaluation.one_program import ProgramResult, Task
from cluster.compression.evaluation.reference import Outputs
from cluster.config.recipe import Recipe
from cluster.independence import SAFE_MATES
from cluster.progress import Print


class EvaluationResult(BaseModel):
    """Results of the evaluation processes. Programs are named ``target/kind``."""

    model_config = ConfigDict(frozen=True)

    programs: dict[str, Measurement] = Field(description="Programs that work and may be chosen.")
    baselines: dict[str, Measurement] = Field(
        description="Program → the baseline on the program's device, measured in turn with it."
    )
    failed: dict[str, str] = Field(default={}, description="Program → reason of its failure.")
    left_out: dict[str, str] = Field(
        default={}, description="Working program → limits that it breaks and others keep."
    )
    operators: dict[str, int] = Field(
        default={}, description="Program → operators that compute, or are stored, in fewer bits."
    )
    differences: dict[str, float] = Field(
        default={},
        description="Working program → difference of its outputs from those of the module that it "
        "was made from, as a share of their spread.",
    )
    causes: dict[str, str] = Field(
        default={}, description="Program → likely cause of a loss of accuracy by its target."
    )
    static: dict[str, tuple[int, ...]] = Field(
        default={}, description="Program → batch sizes whose static shapes gain enough speed."
    )

    @property
    def fastest(self) -> dict[str, str]:
        """Target → kind of its fastest program, for targets with a working program."""
        best: dict[str, str] = {}
        for key in sorted(self.programs, key=lambda key: self.programs[key].typical_ms):
            target, _, kind = key.rpartition("/")
            best.setdefault(target, kind)
        targets = dict.fromkeys(key.rpartition("/")[0] for key in self.programs)
        return {target: best[target] for target in targets}

    @property
    def target_baselines(self) -> dict[str, Measurement]:
        """Target → the baseline there, as measured in turn with its fastest program."""
        return {t: self.baselines[f"{t}/{kind}"] for t, kind in self.fastest.items()}

    @property
    def baseline(self) -> Measurement | None:
        """Baseline of the first target with a working program; None without one."""
        return next(iter(self.target_baselines.values()), None)


def run(
    workspace: Path,
    recipe: Recipe,
    baseline: Path,
    outputs: Mapping[str, Outputs],
    scratch: Path,
    out: Print,
    *,
    mates: Sequence[str] = SAFE_MATES,
) -> EvaluationResult:
    """Measure every program of the artifact in ``workspace``, one fresh process after the other.

    ``baseline``: the float32 weights before compression. ``outputs``: key of a program → its files
    of outputs. ``scratch``: a directory for the baseline's answers on a target, shared by its
    programs and by the artifacts of one recipe. ``mates``: the items of
    :mod:`cluster.independence` that the model takes.

    A program that does not load, dies, hangs, raises or computes another model is reported as
    failed. After the last failure of a target, the programs of further targets are not measured.
    CompressionError, with the process's last lines, if the evaluation itself cannot run.
    """
    results: dict[str, ProgramResult] = {}
    failures: dict[str, ProgramResult] = {}
    manifest = Artifact.read(workspace).manifest

    def task(key: str | None) -> ProgramResult:
        target = key.rpartition("/")[0] if key is not None else "cpu"
        return measure_in_process(
            Task(
                artifact=workspace,
                program=key,
                recipe=recipe,
                baseline_weights=baseline,
                baseline_outputs=scratch / f"baseline_outputs-{target}.npz",
                outputs=outputs[key] if key is not None else None,
                mates=tuple(mates),
                result=scratch / "found.json",
            ),
            scratch,
            out,
        )

    for target, entries in groupby(manifest.programs, lambda entry: entry.target):
        for entry in entries:
            out(f"measure  {entry.kind} for {target}")
            result = task(entry.key)
            if result.program is not None:
                results[entry.key] = result
            else:
                failures[entry.key] = result
                out(f"measure  {entry.key} does not work: {result.failed}")
        if not any(key.startswith(f"{target}/") for key in results):
            out(f"measure  ends: no program for {target} works")
            break
    if not results and any(result.died for result in failures.values()):
        task(None)  # if the baseline fails, too, the evaluation is at fault and not the programs
    return EvaluationResult(
        programs={key: r.program for key, r in results.items() if r.program is not None},
        baselines={key: r.baseline for key, r in results.items() if r.baseline is not None},
        failed={key: result.failed for key, result in failures.items()},
        operators={entry.key: entry.quantized_operators for entry in manifest.programs},
        differences={k: r.difference for k, r in results.items() if r.difference is not None},
        causes=likely_causes(manifest),
        static={key: result.static for key, result in results.items() if result.static},
    )
