"""Gate of a recipe: the limits that a build must keep to become servable.

A limit is a field of GateLimits, with its default and its range, and the entry of the same name in
``cluster/compression/evaluation/limits.py``, which judges a program by it. The fields' order is
that of the checks, the log and the report.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from cluster.config.base import Config

NO_DEFAULT_AFTER_TRAINING = "no default where a step trains after the baseline was taken"
"""Mark of a limit on a figure that such training changes on purpose."""


class GateLimits(Config):
    """Limits of the gate, one field each; null disables a limit."""

    max_accuracy_drop: float | None = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Upper confidence bound of the baseline's score minus the artifact's, on the "
        "same samples, as a share (0.02 = 2 points).",
    )
    min_agreement: Annotated[float | None, NO_DEFAULT_AFTER_TRAINING] = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Lower confidence bound of the agreement with the baseline, on the same "
        "samples: share of equal predictions of a classifier, mean F1 of independent labels, share "
        "of explained variance of numbers, mean cosine of embeddings. The "
        "default does not apply where a step trains after the baseline was taken.",
    )
    min_speedup: float | None = Field(
        default=1.0,
        gt=0,
        description="Baseline latency over the artifact's, at batch 1 (p50); at every other "
        "measured batch size this limit or 1, whichever is less.",
    )
    max_size_share: float | None = Field(
        default=1.0,
        gt=0,
        description="Bytes that a replica loads, over the bytes of the float32 weights.",
    )
    max_bytes: int | None = Field(default=None, ge=1, description="Bytes that a replica loads.")


LIMIT_NAMES = tuple(GateLimits.model_fields)
"""Names of the limits, in the order of the checks."""

_DEFAULTS: dict[str, float] = {
    name: field.default
    for name, field in GateLimits.model_fields.items()
    if field.default is not None
}
"""Limits that hold unless the recipe changes them."""


def _has_default(name: str) -> str:
    if name not in _DEFAULTS:
        raise ValueError(f"no limit with a default; expected one of {', '.join(_DEFAULTS)}")
    return name


class Gate(GateLimits):
    """Limits that a build must keep to become servable.

    A limit that the recipe leaves out has its default; an explicit null disables it.
    """

    confidence: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        description="Confidence of the one-sided bounds of drop and agreement, 0.5..1.",
    )
    defaults: tuple[Annotated[str, AfterValidator(_has_default)], ...] = Field(
        default=(),
        description="Limits that the recipe leaves to their defaults. Derived, not to be written: "
        "a recipe that is stored in full keeps the distinction here.",
    )

    @property
    def limits(self) -> dict[str, float]:
        """Limits in force by name, in the order of the checks."""
        values = {name: getattr(self, name) for name in LIMIT_NAMES}
        return {name: limit for name, limit in values.items() if limit is not None}

    def applied(self, *, trains_after_baseline: bool) -> Gate:
        """Return the gate without the defaults that do not apply to a build.

        ``trains_after_baseline``: a step trains the model after the baseline was taken. A limit
        that the recipe sets always holds.
        """
        dropped = [
            name
            for name in self.defaults
            if trains_after_baseline
            and NO_DEFAULT_AFTER_TRAINING in GateLimits.model_fields[name].metadata
        ]
        if not dropped:
            return self
        return Gate.model_validate({**self.model_dump(), **dict.fromkeys(dropped)})

    @model_validator(mode="before")
    @classmethod
    def _name_defaults(cls, raw: Any) -> Any:
        """Add the limits that ``raw`` leaves out, and remove those that it changes."""
        named = raw.get("defaults", ()) if isinstance(raw, dict) else None
        if not isinstance(named, list | tuple):
            return raw
        changed = [name for name, usual in _DEFAULTS.items() if raw.get(name, usual) != usual]
        omitted = [name for name in _DEFAULTS if name not in raw and name not in named]
        return {**raw, "defaults": [n for n in [*named, *omitted] if n not in changed]}
