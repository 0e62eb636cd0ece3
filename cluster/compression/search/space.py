"""The combinations that a search may try, and each of them as steps of a recipe.

    SearchSpace ─ combinations ─→ (ratio | none) × scheme × layers kept
    Combination ─ float_steps, quantize_step ─→ prune → recovery → quantize

Pruning and recovery are two steps, so that what is pruned once is recovered from one file,
whether with a part of the training or with all of it, and then quantized by every scheme.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.compression import steps
from cluster.config.search import PruneSpace, SearchSpace
from cluster.config.steps import Distill, Prune, Quantize, Recovery, Step, Train
from cluster.errors import CompressionError

NO_SCHEME = "none"

_KEEPS_NOTHING = (NO_SCHEME, "bf16", "fp16")
"""Schemes that leave no layer in bfloat16: there is nothing, or no more, to be had by it."""


@dataclass(frozen=True)
class Leaf:
    """What is done after pruning: by it combinations of different ratios compare."""

    scheme: str
    keep: int


@dataclass(frozen=True)
class Combination:
    """One choice of everything. Number 0 is the uncompressed model."""

    number: int
    ratio: float | None
    leaf: Leaf

    @property
    def pruned(self) -> bool:
        return self.ratio is not None


UNCOMPRESSED = Combination(0, None, Leaf(NO_SCHEME, 0))


def combinations(space: SearchSpace) -> tuple[Combination, ...]:
    """All combinations besides the uncompressed model, numbered from 1.

    Grouped by what follows the pruning; within a group the ratios rise, from not pruning at all.
    """
    ratios = (None, *sorted(set(space.prune.ratios))) if space.prune else (None,)
    leaves = dict.fromkeys(
        Leaf(scheme, 0 if scheme in _KEEPS_NOTHING else keep)
        for scheme in space.schemes
        for keep in sorted(set(space.keep_most_sensitive))
    )
    chosen = [(ratio, leaf) for leaf in leaves for ratio in ratios]
    chosen = [each for each in chosen if each != (UNCOMPRESSED.ratio, UNCOMPRESSED.leaf)]
    return tuple(Combination(number, *each) for number, each in enumerate(chosen, 1))


def check(space: SearchSpace) -> None:
    """CompressionError for a space whose trials could not do what it says."""
    if space.recovery.processes > 1:
        raise CompressionError(
            f"search.space.recovery.processes={space.recovery.processes}: a trial trains in one "
            "process; set it to 1, and search.parallel_trials to run trials side by side"
        )
    if space.prune and space.prune.method == "magnitude" and isinstance(space.recovery, Distill):
        raise CompressionError(
            "search.space.recovery: distill would fill the zeros that search.space.prune.method: "
            "magnitude leaves; recover by fine-tuning (no kind), or prune by method: structured"
        )


def float_steps(
    space: SearchSpace, combination: Combination, recovery: Recovery | Distill | None
) -> tuple[Step, ...]:
    """The steps that leave float32 weights: none, or pruning and its recovery if there is one."""
    if space.prune is None or combination.ratio is None:
        return ()
    pruning = _prune(space.prune, combination.ratio)
    if recovery is None:
        return (pruning,)
    if isinstance(recovery, Distill):
        return pruning, recovery
    if pruning.method == "magnitude":  # only the step itself knows which zeros are to stay
        return (pruning.model_copy(update={"recovery": recovery}),)
    return pruning, Train(kind="train", **recovery.model_dump())


def quantize_step(
    space: SearchSpace, leaf: Leaf, most_sensitive: tuple[str, ...] = ()
) -> Quantize | None:
    """The step of the scheme; None if there is none.

    ``most_sensitive``: names of the layers, the most sensitive first, if an earlier trial has
    found them; else the step itself looks for the ``leaf.keep`` layers to leave.
    """
    if leaf.scheme == NO_SCHEME:
        return None
    known = leaf.keep > 0 and len(most_sensitive) >= leaf.keep
    calibration = {
        "calibration": space.calibration,
        "calibration_samples": space.calibration_samples,
    }
    return Quantize.model_validate(
        {
            "kind": "quantize",
            "scheme": leaf.scheme,
            **(calibration if leaf.scheme == "static_int8" else {}),
            "keep": most_sensitive[: leaf.keep] if known else (),
            "keep_most_sensitive": 0 if known else leaf.keep,
        }
    )


def part_of(recovery: Recovery | Distill, share: float, samples: int) -> Recovery | Distill:
    """The same training with a ``share`` of its updates (rounded up), on so many ``samples``."""
    updates = recovery.epochs * math.ceil(samples / recovery.batch_size)
    updates = min(updates, recovery.updates or updates)
    return recovery.model_copy(update={"updates": math.ceil(updates * share)})


def title(space: SearchSpace, combination: Combination) -> str:
    """The combination in a few words."""
    leaf = combination.leaf
    pruning = float_steps(space, combination, None)
    words = [steps.title(step) for step in pruning]
    if leaf.scheme != NO_SCHEME:
        kept = f", {leaf.keep} layers in bf16" if leaf.keep else ""
        words.append(f"{leaf.scheme}{kept}")
    return " + ".join(words) or "uncompressed"


def _prune(space: PruneSpace, ratio: float) -> Prune:
    structured = {"importance": space.importance, "round_to": space.round_to}
    return Prune.model_validate(
        {
            "kind": "prune",
            "method": space.method,
            "ratio": ratio,
            "spare": space.spare,
            **(structured if space.method == "structured" else {}),
        }
    )
