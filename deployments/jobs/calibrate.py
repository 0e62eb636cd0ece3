"""Calibration of a cascade: its targets' programs, run here on labelled samples.

route → targets → artifacts → probabilities of the validation samples → threshold
                            → probabilities of the held-out samples → its figures there
                            → the store, under a key of the artifacts
"""

from __future__ import annotations

import time

import numpy as np

from cluster.activation import probabilities
from cluster.artifact.artifact import TOKENIZER, Artifact
from cluster.artifact.store import open_store
from cluster.config.recipe import Recipe
from cluster.config.routing import Cascade
from cluster.config.sources import DataSource
from cluster.data import PreparedSamples, load_data, require_readable
from cluster.data.samples import Samples
from cluster.errors import ConfigError
from cluster.program import program as programs
from cluster.progress import Print
from cluster.routing.calibration import Calibration, CascadeGoal, measure, smallest_threshold
from cluster.routing.ensemble import mean, vote
from deployments.router.thresholds import Targets, calibration_key

_BATCH = 8
"""Items per run, at most; less if the model's largest batch is smaller."""


def calibrate(
    cascade: Cascade,
    targets: Targets,
    goal: CascadeGoal,
    data: DataSource | None,
    store: str | None,
    report: Print,
) -> Calibration:
    """Find the cascade's threshold, write it to the store, and return it with its figures.

    ``data``: None: that of the recipe of the first target's artifact. Raises ConfigError if no
    threshold reaches the goal, SourceError for data that does not fit the models.
    """
    key = calibration_key(cascade, targets)
    first = _first_model(targets, cascade.targets[0].target)
    recipe = Recipe.model_validate(targets.artifact(first).manifest.recipe)
    data = data or recipe.data
    loaded = load_data(data, recipe.seed)
    if loaded.test.activation != "softmax":
        raise ConfigError(
            f"{(data or recipe.data).source} has {loaded.test.labels.dtype} labels; a threshold is "
            "chosen by classes, integers [N]; give --data with the model's classes"
        )
    names = [target.target for target in cascade.targets]
    chosen, held = (
        _readable(samples, targets.artifact(first), data.max_unreadable, report)
        for samples in (loaded.validation, loaded.test)
    )
    validation = _Scores(targets, chosen, loaded.labels, report)
    test = _Scores(targets, held, loaded.labels, report)
    scores, labels = [validation.of(name) for name in names], chosen.labels
    item_ms = [validation.item_ms(name) for name in names]
    threshold = smallest_threshold(scores, labels, goal, item_ms)
    held_out = [test.of(name) for name in names]
    calibration = Calibration(
        targets=tuple(targets.identity(name) for name in names),
        goal=str(goal),
        thresholds=(threshold,) * (len(names) - 1),
        chosen_on=measure(scores, labels, threshold, item_ms),
        held_out=measure(held_out, held.labels, threshold, item_ms),
    )
    open_store(store).keep_calibration(key, calibration.model_dump_json(indent=1).encode())
    return calibration


def _first_model(targets: Targets, name: str) -> str:
    while name not in targets.models:
        name = targets.combining(name).targets[0].target
    return name


def _prepared(samples: Samples, artifact: Artifact) -> PreparedSamples:
    manifest = artifact.manifest
    tokenizer = artifact.file(TOKENIZER).read_bytes() if manifest.text is not None else None
    return PreparedSamples(
        samples,
        manifest.inputs,
        manifest.image or manifest.text,
        tokenizer,
        skip_unreadable=True,
    )


def _readable(samples: Samples, artifact: Artifact, limit: float, report: Print) -> Samples:
    """Return the samples whose files can be read; SourceError if too many cannot."""
    prepared = _prepared(samples, artifact)
    require_readable([prepared], limit, report)
    return samples.subset(np.flatnonzero(prepared.readable(range(len(samples)))))


class _Scores:
    """Probabilities of the targets on some samples; each model runs once."""

    def __init__(
        self, targets: Targets, samples: Samples, labels: tuple[str, ...], report: Print
    ) -> None:
        self._targets = targets
        self._samples = samples
        self._labels = labels
        self._report = report
        self._scores: dict[str, np.ndarray] = {}
        self._item_ms: dict[str, float] = {}

    def of(self, name: str) -> np.ndarray:
        """Return the probabilities ``[samples, labels]`` of a model or an ensemble."""
        if name not in self._scores:
            if name in self._targets.models:
                self._scores[name] = self._run(name)
            else:
                route = self._targets.combining(name)
                combine = mean if route.combine == "mean" else vote
                answers = [self.of(target.target) for target in route.targets]
                self._scores[name] = combine(answers, [t.weight for t in route.targets])
        return self._scores[name]

    def item_ms(self, name: str) -> float:
        """Return the time per item in ms, of a route the sum of its models."""
        if name in self._targets.models:
            self.of(name)
            return self._item_ms[name]
        route = self._targets.combining(name)
        return sum(self.item_ms(target.target) for target in route.targets)

    def _run(self, name: str) -> np.ndarray:
        artifact = self._targets.artifact(name)
        manifest, args = artifact.manifest, self._targets.models[name].args
        if manifest.labels != self._labels:
            raise ConfigError(
                f"{name} has {len(manifest.labels)} labels, the data has {len(self._labels)}, or "
                "other ones; give --data with the model's labels"
            )
        if manifest.activation != "softmax":
            raise ConfigError(
                f"{name} has model.activation: {manifest.activation} in its recipe; a cascade's "
                "threshold compares the likeliest label of a softmax"
            )
        program = programs.load(artifact, args.compute_threads)
        prepared = _prepared(self._samples, artifact)
        size = min(_BATCH, args.batching.max_batch_size)
        program.run([spec.zeros(size) for spec in manifest.inputs])  # sets up its kernels
        outputs, total_s = [], 0.0
        for start in range(0, len(prepared), size):
            arrays, _ = prepared.batch(range(start, min(start + size, len(prepared))))
            started = time.perf_counter()
            outputs.append(program.run(arrays)[0])
            total_s += time.perf_counter() - started
        self._item_ms[name] = total_s / len(prepared) * 1e3
        self._report(f"{name}: {len(prepared)} samples, {self._item_ms[name]:.2f} ms each")
        logits = np.concatenate(outputs).astype(np.float32)
        return probabilities(logits, manifest.activation)
