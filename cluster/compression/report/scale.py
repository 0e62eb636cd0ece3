"""Scales of a chart: values to places, and the places of ticks. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Values ``low``..``high`` on ``start``..``end``, in pixels or percent.

    ``log``: equal factors have equal distances; then ``low`` is above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of the value, to a tenth; values outside are at the nearer end."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        share = (at - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, about: int = 5) -> list[float]:
        """Return about ``about`` round values inside: 1, 2 or 5 times a power of ten."""
        if not self.log:
            return self._even(about)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [m * 10.0**p for p in powers for m in steps]
            ticks = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(ticks) <= about + 2:
                break
        return ticks if len(ticks) > 1 else self._even(about)

    def _even(self, about: int) -> list[float]:
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.7)
        first, last = math.ceil(self.low / step), math.floor(self.high / step + 1e-9)
        # Multiples of the step, without the rounding error of the multiplication.
        return [float(f"{count * step:.10g}") for count in range(first, last + 1)]


def around(
    values: Iterable[float], start: float, end: float, *, log: bool = False, margin: float = 0.06
) -> Scale:
    """Return a scale of all finite values, with a margin at both ends.

    If all values are equal, they are in the middle.
    """
    known = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = (min(known), max(known)) if known else (1.0, 1.0)
    if log:
        factor = (high / low) ** margin if high > low else 2.0
        return Scale(low / factor, high * factor, start, end, log=True)
    room = (high - low) * margin if high > low else abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room, start, end)
