"""The baseline in words: which model the programs of a build are compared with.

A recipe is plain data here, also of an older or a foreign manifest. The rule is that of
:attr:`cluster.config.recipe.Recipe.baseline_source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, Literal


def baseline_name(recipe: Mapping[str, Any]) -> str:
    """Return the name of the baseline's row: ``baseline (trained model, eager float32)``."""
    model = _model(recipe)
    return f"baseline ({f'{model}, ' if model else ''}eager float32)"


def baseline_note(recipe: Mapping[str, Any]) -> str:
    """Return a sentence on a baseline that is not the recipe's model as it is; empty if it is."""
    match _model(recipe):
        case "trained model":
            return (
                "The baseline is the model after the training that begins the recipe; the gate "
                "does not judge that training."
            )
        case "teacher":
            return "The baseline is the teacher, which the artifact replaces."
    return ""


def _model(recipe: Mapping[str, Any]) -> Literal["trained model", "teacher"] | None:
    listed = recipe.get("steps")
    steps = [step for step in listed if isinstance(step, dict)] if isinstance(listed, list) else []
    training = [*takewhile(lambda step: step.get("kind") == "train", steps)]
    after = steps[len(training)] if len(training) < len(steps) else {}
    teacher = after.get("teacher") if after.get("kind") == "distill" else None
    if isinstance(teacher, dict) and teacher.get("model"):
        return "teacher"
    return "trained model" if training else None
