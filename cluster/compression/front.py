"""Artifacts of a finished search: the best model and the Pareto front.

SearchResult.feasible ─ first that passes the gate ─→ best model, published last, under the job key
                      └ others on the front ─→ NAME.front-N, each published at once

The search ranks by validation samples and one kind of program; the gate decides. An artifact under
the job's key ends the job, so the best model is built first and published last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

from cluster.artifact.artifact import Artifact
from cluster.compression import packaging
from cluster.compression.packaging import AcceptedBuild, CompressedModel, Rejection
from cluster.compression.record import SearchRecord, StepRecord
from cluster.compression.search.result import SearchResult, Trial
from cluster.compression.work import Job
from cluster.errors import CompressionError

MAX_BUILDS = 2
"""Maximum number of builds of one model of the front that kill the job."""


@dataclass(frozen=True)
class Front:
    """Models of a finished search."""

    result: SearchResult
    key: str
    """Key of the job."""

    records: tuple[StepRecord, ...]
    """Records of the recipe's own steps."""

    job: Job

    def publish(self) -> Artifact | Rejection:
        """Publish the front and the best model, or return the last of the gate's rejections.

        CompressionError if no model passes and at least one could not be built.
        """
        trials = iter(self.result.feasible)
        chosen = self._best(trials)
        if isinstance(chosen, Rejection):
            return chosen
        best, build = chosen
        names: dict[int, str] = {}
        for trial in trials:
            if trial.on_front and (name := self._beside(trial, best.number, names)) is not None:
                names[trial.number] = name
        names[best.number] = build.draft.manifest.name
        return packaging.publish(build, self.job, self.result.record(best.number, names))

    def _best(self, trials: Iterator[Trial]) -> tuple[Trial, AcceptedBuild] | Rejection:
        failure: CompressionError | None = None
        rejection = Rejection("")
        for trial in trials:
            record = self.result.record(trial.number, {})
            try:
                build = self._build(trial, self.job.recipe.name, self.key, record)
            except CompressionError as error:  # the search measured only one kind of program
                self.job.out(f"trial {trial.number} cannot be built: {error}")
                failure = error
                continue
            if isinstance(build, AcceptedBuild):
                return trial, build
            rejection = build
        if failure is not None:
            raise failure
        return rejection

    def _beside(self, trial: Trial, best: int, names: Mapping[int, str]) -> str | None:
        """Publish a model of the front, unless an earlier job did. Return its name, or None."""
        job = self.job
        name = f"{job.recipe.name}.front-{trial.number}"
        steps = json.dumps([step.model_dump(mode="json") for step in trial.steps])
        key = sha256(f"{self.key} {trial.number} {steps}".encode()).hexdigest()
        record = self.result.record(best, {**names, trial.number: name})
        attempts = job.checkpoints / f"front-{trial.number}.attempts"
        try:
            if (artifact := job.store.find_build(key)) is not None:
                job.out(f"artifact {artifact.id} already exists: {name}")
                return name
            # A build that kills the process must not do so in every job.
            count = len(attempts.read_text()) if attempts.is_file() else 0
            if count == MAX_BUILDS:
                job.out(f"{name} is skipped: the job died {count} times during its build")
                return None
            attempts.write_text("." * (count + 1))
            build = self._build(trial, name, key, record)
            if isinstance(build, AcceptedBuild):
                packaging.publish(build, job, record)
            attempts.unlink()
        # User code can raise anything here; the best model must still be published.
        except Exception as error:  # noqa: BLE001
            job.out(f"{name} cannot be published: {type(error).__name__}: {error}")
            attempts.unlink(missing_ok=True)
            return None
        return name if isinstance(build, AcceptedBuild) else None

    def _build(
        self, trial: Trial, name: str, key: str, record: SearchRecord
    ) -> AcceptedBuild | Rejection:
        work, records = trial.build(self.job)
        steps = (*self.records, *records)
        model = CompressedModel(name, key, work, steps, record, trial.steps)
        return packaging.build(model, self.job)
