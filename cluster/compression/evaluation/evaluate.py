"""Measuring the artifact as a replica would load it, each program in a process that built nothing.

run(...) in the job ─ each program ─→ fresh_process → Found: the program beside the baseline
                                    ↘ the fastest of each target → Evaluated
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from cluster.artifact.artifact import Artifact
from cluster.artifact.manifest import Measurement
from cluster.compression.evaluation.fresh_process import measured_in_process
from cluster.compression.evaluation.one_program import Found, Task
from cluster.config.recipe import Recipe
from cluster.progress import Print


class Evaluated(BaseModel):
    """What the evaluation processes found. Programs are named ``target/kind``."""

    model_config = ConfigDict(frozen=True)

    programs: dict[str, Measurement] = Field(description="Those that work and may be chosen.")
    baselines: dict[str, Measurement] = Field(
        description="Program → the baseline on the program's device, measured in turn with it."
    )
    alone: Measurement | None = Field(
        default=None, description="The baseline on the CPU, where no program works."
    )
    failed: dict[str, str] = Field(default={}, description="Program → why it does not work.")
    left_out: dict[str, str] = Field(
        default={}, description="Program that works → the limits it breaks and others keep."
    )
    operators: dict[str, int] = Field(
        default={}, description="Program → operators that compute, or are stored, in fewer bits."
    )
    static: dict[str, tuple[int, ...]] = Field(
        default={}, description="Program → batch sizes whose static shapes are worth keeping."
    )

    @property
    def fastest(self) -> dict[str, str]:
        """Target → kind of its fastest program, for targets of which one works."""
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
    def baseline(self) -> Measurement:
        """The first target's; where no program works, the one measured alone."""
        for found in (*self.target_baselines.values(), self.alone):
            if found is not None:
                return found
        raise ValueError("neither a program nor the baseline alone was measured")


def run(
    workspace: Path, recipe: Recipe, baseline: Path, expected: Path, scratch: Path, out: Print
) -> Evaluated:
    """Measure every program of the artifact in ``workspace``, one fresh process after the other.

    ``baseline``: the float32 weights before compression. ``expected``: what the programs must
    compute, see :mod:`cluster.compression.evaluation.reference`. ``scratch``: a directory, where
    the baseline's answers on a target are kept between its programs, and between artifacts of one
    recipe.

    A program that does not load, dies, hangs, raises or computes another model is reported as
    failed. CompressionError, with the process's last lines, if the evaluation itself cannot run.
    """
    found: dict[str, Found] = {}
    failed: dict[str, str] = {}
    entries = Artifact.read(workspace).manifest.programs

    def task(key: str | None) -> Found:
        target = key.rpartition("/")[0] if key is not None else "cpu"
        return measured_in_process(
            Task(
                artifact=workspace,
                program=key,
                recipe=recipe,
                baseline_weights=baseline,
                baseline_outputs=scratch / f"baseline_outputs-{target}.npz",
                expected=expected,
                result=scratch / "found.json",
            ),
            scratch,
            out,
        )

    for entry in entries:
        out(f"measure  {entry.kind} for {entry.target}")
        answer = task(entry.key)
        if answer.program is not None:
            found[entry.key] = answer
        else:
            failed[entry.key] = answer.failed
            out(f"measure  {entry.key} does not work: {answer.failed}")
    return Evaluated(
        programs={key: each.program for key, each in found.items() if each.program is not None},
        baselines={key: each.baseline for key, each in found.items() if each.baseline is not None},
        # What was at fault shows here: where the baseline fails too, it is not the programs.
        alone=None if found else task(None).baseline,
        failed=failed,
        operators={entry.key: entry.quantized_operators for entry in entries},
        static={key: each.static for key, each in found.items() if each.static},
    )
