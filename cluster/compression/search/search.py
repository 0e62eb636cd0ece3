"""Search of the best combination of steps within the accuracy budget, by trials.

    space.combinations ─→ strategy.next_round ─→ launcher.map_unordered(trial.measure) ─→ journal
                              ↑ results so far ─────────────────────────────────────────────┘
                          search over, or time budget spent → SearchResult: feasible models, front

After a kill the same job resumes from the results in the journal. Its time budget starts again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from cluster.compression.search import space, strategy, trial
from cluster.compression.search.journal import Journal, Stage, TrialResult, key_of
from cluster.compression.search.result import SearchResult, Trial
from cluster.compression.search.space import UNCOMPRESSED
from cluster.compression.search.standing import Goal, Standing
from cluster.compression.search.strategy import PARTIAL_SHARE, Attempt
from cluster.compression.search.trial import TrialTask
from cluster.compression.work import Job, Work
from cluster.config.search import Search
from cluster.config.steps import Step
from cluster.errors import CompressionError, LostProcessError
from cluster.models.forward import Eager
from cluster.progress import Bar

__all__ = ["SearchResult", "Trial", "run"]

PROXY_SHARE = 0.5
"""Share of the time budget for proxies; the rest is for training the best of them."""


def run(search: Search, work: Work, job: Job) -> SearchResult:
    """Try combinations of ``search.space`` on ``work``; return the result.

    The search ends when no untried combination can be better, or when ``search.time_budget_s`` or
    ``search.max_trials`` is spent. ``work`` is float32. Files are in ``job.checkpoints``, which
    every process that runs trials must see.

    CompressionError if the space cannot be searched, the uncompressed model cannot be measured, or
    the journal cannot be written.
    """
    return _Search(search, work, job).run()


class _Search:
    """One run of a search, with its results so far."""

    def __init__(self, search: Search, work: Work, job: Job) -> None:
        space.check(search.space)
        self._search, self._work, self._job = search, work, job
        self._started = time.monotonic()
        self._combinations = space.combinations(search.space)
        self._by_number = {c.number: c for c in (UNCOMPRESSED, *self._combinations)}
        recipe = job.recipe
        self._goal = Goal(
            objective=search.objective,
            budget=recipe.gate.max_accuracy_drop,
            max_trials=search.max_trials,
            at_once=search.parallel_trials,
            chance=_chance(work, recipe.evaluation.metrics[0]),
        )
        baseline = Work.of(job.baseline(), work.inputs)
        self._key = key_of(work.weights(), baseline.weights())
        self._journal = Journal(job.checkpoints / "search", self._key)
        folder = self._journal.folder
        for abandoned in folder.glob(f"*{trial.PARTIAL}"):
            abandoned.unlink()
        trial.save(work, folder / trial.BASE)
        trial.save(baseline, folder / trial.BASELINE)
        self._results: dict[tuple[int, Stage], TrialResult] = {
            (result.number, result.stage): result for result in self._journal.results
        }

    def run(self) -> SearchResult:
        out, resumed = self._job.out, len(self._results)
        out(f"search   {len(self._combinations)} combinations, at most {self._limits()}")
        if resumed:
            out(f"search   resumes after {resumed} results of a killed job")
        while attempts := self._next():
            before = len(self._results)
            for result in self._run_all(attempts):
                self._results[result.number, result.stage] = result
                self._report(result)
            if len(self._results) == before:
                break  # the time budget ended before any of them started
        standing = self._standing()
        self._report_best(standing)
        seconds = time.monotonic() - self._started
        return SearchResult(
            self._search, standing, self._journal.folder, self._work, resumed, seconds
        )

    def _next(self) -> tuple[Attempt, ...]:
        spent = time.monotonic() - self._started
        budget = self._search.time_budget_s
        attempts = strategy.next_round(
            self._combinations, self._results, self._goal, hurry=spent > budget * PROXY_SHARE
        )
        # A search always returns a model: the uncompressed one is measured at any time.
        return (
            attempts if spent < budget or (UNCOMPRESSED.number, "full") not in self._results else ()
        )

    def _run_all(self, attempts: Sequence[Attempt]) -> Iterator[TrialResult]:
        """Yield results as trials finish, each after it is written to the journal."""
        pending, lost = list(attempts), dict[Attempt, LostProcessError]()
        bar = Bar("search  ", len(attempts), self._job.out)
        done = 0
        while pending:
            retries = []
            tasks = [self._task(attempt) for attempt in pending]
            launcher, at_once = self._job.launcher, self._search.parallel_trials
            for finished in launcher.map_unordered(trial.measure, tasks, at_once):
                attempt = pending[finished.index]
                if finished.lost is not None and attempt not in lost:
                    lost[attempt] = finished.lost
                    self._job.out(f"trial {attempt.number:>4} lost its process: retry")
                    retries.append(attempt)
                    continue
                done += 1
                if len(attempts) > 1:
                    bar.update(done)
                if finished.lost is not None:
                    yield self._record(self._lost(attempt, str(finished.lost)))
                elif finished.result is not None:
                    yield self._record(finished.result)
            pending = retries

    def _record(self, result: TrialResult) -> TrialResult:
        """Complete the result and write it to the journal, unless the next job should retry."""
        proxy = self._results.get((result.number, "proxy"))
        if proxy is not None and result.latency_ms is None:  # training changes neither
            known = {"latency_ms": proxy.latency_ms, "size_bytes": proxy.size_bytes}
            result = result.model_copy(update=known)
        # A transient failure may not recur, and no job can do without the uncompressed model.
        retry = result.passing or result.number == UNCOMPRESSED.number
        if not (result.failed and retry):
            self._journal.append(result)
        return result

    def _lost(self, attempt: Attempt, reason: str) -> TrialResult:
        return TrialResult(
            number=attempt.number,
            stage=attempt.stage,
            steps=self._steps(attempt),
            failed=f"its process died twice: {reason}",
            passing=True,
        )

    def _task(self, attempt: Attempt) -> TrialTask:
        reference = self._results.get((UNCOMPRESSED.number, "full"))
        unlimited = attempt.number == UNCOMPRESSED.number
        remaining_s = self._search.time_budget_s - (time.monotonic() - self._started)
        return TrialTask(
            number=attempt.number,
            stage=attempt.stage,
            steps=self._steps(attempt),
            recipe=self._job.recipe,
            store=self._job.store,
            folder=self._journal.folder,
            key=self._key,
            batch=self._search.batch,
            timed=(attempt.number, "proxy") not in self._results,
            reference_ms=reference.latency_ms if reference else None,
            not_after=float("inf") if unlimited else time.time() + remaining_s,
        )

    def _steps(self, attempt: Attempt) -> tuple[Step, ...]:
        settings, combination = self._search.space, self._by_number[attempt.number]
        recovery = None
        if attempt.stage == "full":
            recovery = settings.recovery
        elif attempt.stage == "partial":
            samples = len(self._job.train)
            recovery = space.part_of(settings.recovery, PARTIAL_SHARE, samples)
        quantize = space.quantize_step(
            settings, combination.leaf, self._most_sensitive(combination.leaf.scheme)
        )
        float_steps = space.float_steps(settings, combination, recovery)
        return (*float_steps, *([quantize] if quantize else []))

    def _most_sensitive(self, scheme: str) -> tuple[str, ...]:
        """Return layers by sensitivity to the scheme, largest first; empty if not measured yet."""
        for combination in self._combinations:
            if combination.pruned or combination.leaf.scheme != scheme:
                continue
            result = self._results.get((combination.number, "full"))
            if result and result.sensitivity:
                drops = result.sensitivity
                return tuple(sorted(drops, key=lambda layer: (-drops[layer], layer)))
        return ()

    def _standing(self) -> Standing:
        return Standing(self._combinations, dict(self._results), self._goal)

    def _limits(self) -> str:
        search = self._search
        return f"{search.max_trials} in full, {search.time_budget_s:g} s"

    def _report(self, result: TrialResult) -> None:
        combination = self._by_number[result.number]
        name = space.title(self._search.space, combination)
        line = f"trial {result.number:>4} {name}"
        if result.failed:
            if result.number == UNCOMPRESSED.number:
                raise CompressionError(
                    f"the search cannot measure the uncompressed model: {result.failed}"
                )
            self._job.out(f"{line}: failed: {result.failed}")
            return
        trained = {"proxy": ", not recovered", "partial": ", recovered in part", "full": ""}
        drop, latency, size = result.drop, result.latency_ms, result.size_bytes
        facts = [
            f"drop {drop.mean:+.4f}, at most {drop.upper:.4f}" if drop else "",
            f"{latency:.3g} ms at batch {self._search.batch}" if latency is not None else "",
            f"{size / 1e6:.2f} MB" if size is not None else "",
            "" if result.stage == "proxy" else _within(self._goal.feasible(result)),
        ]
        self._job.out(f"{line}{trained[result.stage]}: {', '.join(fact for fact in facts if fact)}")

    def _report_best(self, standing: Standing) -> None:
        out, budget, best = self._job.out, self._goal.budget, standing.best
        unchanged = standing.results[UNCOMPRESSED.number, "full"]
        if best is None and unchanged.drop is not None:
            out(
                f"search   no model is within gate.max_accuracy_drop={budget:g}, not even the "
                f"uncompressed one: on {len(self._job.validation)} validation samples its drop "
                f"may be {unchanged.drop.upper:.4f}; raise data.validation_share or the limit"
            )
        elif best is None or best.number == UNCOMPRESSED.number:
            limit = "" if budget is None else f" within gate.max_accuracy_drop={budget:g}"
            out(
                f"search   no model{limit} is better by {self._search.objective} than the "
                "uncompressed one, which is the result; widen search.space or the limits"
            )
        else:
            name = space.title(self._search.space, self._by_number[best.number])
            out(f"search   best: trial {best.number}, {name}")


def _within(feasible: bool) -> str:
    return "within the budget" if feasible else "over the budget"


def _chance(work: Work, metric: str) -> float:
    """Return the score of a guess: 1 / classes for accuracy, 0 for embeddings."""
    if metric != "accuracy":
        return 0.0
    (outputs,) = Eager(work.module)([spec.zeros(1) for spec in work.inputs])
    return 1 / outputs.shape[1]
