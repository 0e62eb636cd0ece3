"""Formatted numbers: three significant digits, a unit, no exponent. Pure.

The gate's messages, the terminal's table and the report share these formats.
"""

from __future__ import annotations

import math

_BYTE_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_COUNT_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def figure(value: float) -> str:
    """Return three significant digits: ``0.123``, ``12.3``, ``1230``; infinities as they are."""
    if value == 0 or not math.isfinite(value):
        return f"{abs(value):g}" if value == 0 else f"{value:g}"
    # 0.9996 is 1.00: the number of decimals follows from the rounded value.
    decimals = 2 - math.floor(math.log10(abs(float(f"{value:.3g}"))))
    return f"{value:.{min(9, max(0, decimals))}f}".replace("-", "−")


def size(count: float) -> str:
    """Return bytes in powers of 1000: ``11.2 MB``."""
    return _scaled(count, _BYTE_UNITS, "B")


def amount(count: float) -> str:
    """Return a count without a unit, such as of parameters: ``11.2 M``, ``960``."""
    return _scaled(count, _COUNT_UNITS, "").rstrip()


def milliseconds(value: float) -> str:
    """Return ``4.56 ms``."""
    return f"{figure(value)} ms"


def duration(seconds: float) -> str:
    """Return ``0.45 s``, ``41 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def score(metric: str, value: float) -> str:
    """Return a metric's mean: accuracy in percent, others as 0..1."""
    return percent(value) if metric == "accuracy" else f"{value:.4f}"


def percent(share: float) -> str:
    """Return a share as a percentage: ``84.30 %``."""
    return f"{share * 100:.2f} %"


def points(share: float) -> str:
    """Return a difference of shares in percentage points, signed: ``−0.42``, ``+1.10``."""
    text = f"{abs(share) * 100:.2f}"
    if float(text) == 0:
        return text
    return f"{'+' if share > 0 else '−'}{text}"


def times(ratio: float) -> str:
    """Return ``2.13×``."""
    return f"{figure(ratio)}×"


def _scaled(count: float, units: tuple[tuple[float, str], ...], smallest: str) -> str:
    for factor, unit in units:
        # 999 950 is 1.00 M: a value that rounds up to the next unit is shown in that unit.
        if abs(count) >= factor * 0.9995:
            return f"{figure(count / factor)} {unit}"
    return f"{count:.0f} {smallest}"
