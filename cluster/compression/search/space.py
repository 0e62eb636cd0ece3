"""Combinations of a search space, and the recipe steps of each.

    SearchSpace ─ combinations ─→ (ratio | none) × scheme × bfloat16 layers
    Combination ─ float_steps, quantize_step ─→ prune → recovery → quantize

Pruning and recovery are two steps, so a model is pruned once. From its file follow the recoveries,
partial and full, and the quantization by every scheme.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.compression import steps
from cluster.config.search import PruneSpace, SearchSpace
from cluster.config.steps import Distill, Prune, Quantize, Recovery, Step, Train
from cluster.errors import CompressionError

NO_SCHEME = "none"

_WITHOUT_BFLOAT16_LAYERS = (NO_SCHEME, "bf16", "fp16")
"""Schemes for which bfloat16 layers gain nothing."""


@dataclass(frozen=True)
class Leaf:
    """Quantization after pruning; combinations of different ratios are compared by it."""

    scheme: str
    keep: int


@dataclass(frozen=True)
class Combination:
    """One choice of ratio and quantization. Number 0 is the uncompressed model."""

    number: int
    ratio: float | None
    leaf: Leaf

    @property
    def pruned(self) -> bool:
        return self.ratio is not None


UNCOMPRESSED = Combination(0, None, Leaf(NO_SCHEME, 0))


def combinations(space: SearchSpace) -> tuple[Combination, ...]:
    """Return all combinations except the uncompressed model, numbered from 1.

    They are grouped by quantization; within a group ratios rise, from no pruning.
    """
    ratios = (None, *sorted(set(space.prune.ratios))) if space.prune else (None,)
    leaves = dict.fromkeys(
        Leaf(scheme, 0 if scheme in _WITHOUT_BFLOAT16_LAYERS else keep)
        for scheme in space.schemes
        for keep in sorted(set(space.keep_most_sensitive))
    )
    unchanged = (UNCOMPRESSED.ratio, UNCOMPRESSED.leaf)
    choices = [(ratio, leaf) for leaf in leaves for ratio in ratios if (ratio, leaf) != unchanged]
    return tuple(Combination(number, *choice) for number, choice in enumerate(choices, 1))


def check(space: SearchSpace) -> None:
    """Raise CompressionError if the trials cannot follow the space's settings."""
    if space.recovery.processes > 1:
        raise CompressionError(
            f"search.space.recovery.processes={space.recovery.processes}: a trial trains in one "
            "process; set it to 1, and search.parallel_trials for concurrent trials"
        )
    if space.prune and space.prune.method == "magnitude" and isinstance(space.recovery, Distill):
        raise CompressionError(
            "search.space.recovery: distill would fill the zeros that search.space.prune.method: "
            "magnitude leaves; recover by fine-tuning (no kind), or prune by method: structured"
        )


def float_steps(
    space: SearchSpace, combination: Combination, recovery: Recovery | Distill | None
) -> tuple[Step, ...]:
    """Return the float32 steps: pruning and its recovery; empty without pruning."""
    if space.prune is None or combination.ratio is None:
        return ()
    pruning = _prune(space.prune, combination.ratio)
    if recovery is None:
        return (pruning,)
    if isinstance(recovery, Distill):
        return pruning, recovery
    if pruning.method == "magnitude":  # only the step itself knows its zeros
        return (pruning.model_copy(update={"recovery": recovery}),)
    return pruning, Train(kind="train", **recovery.model_dump())


def quantize_step(
    space: SearchSpace, leaf: Leaf, most_sensitive: tuple[str, ...] = ()
) -> Quantize | None:
    """Return the step of the scheme, or None for no scheme.

    ``most_sensitive``: names of layers by an earlier trial, the most sensitive first. Without them
    the step itself measures the ``leaf.keep`` layers to leave in bfloat16.
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
    """Return the training with a ``share`` of its updates, rounded up, on ``samples`` samples."""
    updates = recovery.epochs * math.ceil(samples / recovery.batch_size)
    updates = min(updates, recovery.updates or updates)
    return recovery.model_copy(update={"updates": math.ceil(updates * share)})


def title(space: SearchSpace, combination: Combination) -> str:
    """Return the combination in a few words."""
    leaf = combination.leaf
    pruning = float_steps(space, combination, None)
    words = [steps.title(step) for step in pruning]
    if leaf.scheme != NO_SCHEME:
        suffix = f", {leaf.keep} layers in bf16" if leaf.keep else ""
        words.append(f"{leaf.scheme}{suffix}")
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
