"""Numbers as people read them: three significant digits, a unit, no exponent. Pure.

The gate's sentences, the terminal's table and the page write the same figure the same way.
"""

from __future__ import annotations

import math

_BYTE_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_COUNT_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def figure(value: float) -> str:
    """Three significant digits: ``0.123``, ``12.3``, ``1230``; what is not finite as it is."""
    if value == 0 or not math.isfinite(value):
        return f"{abs(value):g}" if value == 0 else f"{value:g}"
    # 0.9996 is 1.00: how many decimals follows from what the rounding makes of it.
    decimals = 2 - math.floor(math.log10(abs(float(f"{value:.3g}"))))
    return f"{value:.{min(9, max(0, decimals))}f}".replace("-", "−")


def size(count: float) -> str:
    """Bytes in powers of 1000: ``11.2 MB``."""
    return _scaled(count, _BYTE_UNITS, "B")


def amount(count: float) -> str:
    """Parameters, operations and the like: ``11.2 M``, ``960``."""
    return _scaled(count, _COUNT_UNITS, "").rstrip()


def milliseconds(value: float) -> str:
    """``4.56 ms``."""
    return f"{figure(value)} ms"


def duration(seconds: float) -> str:
    """``0.45 s``, ``41 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def score(metric: str, value: float) -> str:
    """A metric's mean: a share of right answers in percent, any other as it is, 0..1."""
    return percent(value) if metric == "accuracy" else f"{value:.4f}"


def percent(share: float) -> str:
    """A share as a percentage: ``84.30 %``."""
    return f"{share * 100:.2f} %"


def points(share: float) -> str:
    """A difference of two shares in percentage points, with its sign: ``−0.42``, ``+1.10``."""
    text = f"{abs(share) * 100:.2f}"
    if float(text) == 0:
        return text
    return f"{'+' if share > 0 else '−'}{text}"


def times(ratio: float) -> str:
    """``2.13×``."""
    return f"{figure(ratio)}×"


def _scaled(count: float, units: tuple[tuple[float, str], ...], smallest: str) -> str:
    for factor, unit in units:
        # 999 950 is 1.00 M: what rounds up to the next unit takes it.
        if abs(count) >= factor * 0.9995:
            return f"{figure(count / factor)} {unit}"
    return f"{count:.0f} {smallest}"
