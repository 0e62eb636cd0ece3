"""Model between two steps, with checks of its indices in every module that a compiler reads.

Work ─┬─ module       → checked ┐
      └─ float module → checked ┴→ CheckedWork → which kinds of programs may hold it
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster.compression.indexing.checked import checked, checks_of
from cluster.compression.indexing.limits import Limits
from cluster.compression.work import Work
from cluster.errors import CompressionError


@dataclass(frozen=True)
class CheckedWork:
    """Work whose modules check their computed indices."""

    work: Work
    """``work.module`` and ``work.precision.float_module`` may have further outputs."""

    limits: Limits
    """Ranges for which the inputs of a request are checked before a program runs."""

    exported: bool
    """Whether the modules are graphs, so that their indices are known."""

    unchecked: str | None = None
    """Index that no check covers; None without one."""

    wide: str | None = None
    """Index that needs integers of more than 32 bits; None without one."""

    @property
    def computed(self) -> bool:
        """Whether the module has indices that are computed, and not elements of inputs."""
        return bool(checks_of(self.work.module))


def of(work: Work, batch: int | None = None, limits: Limits | None = None) -> CheckedWork:
    """Return the work with checks.

    ``batch``: the only batch size of its programs; None: dynamic. ``limits``: ranges for which
    requests are checked, if they are decided; None: decided here. A module that cannot be exported
    is returned unchanged.
    """
    ranges = limits or Limits(work.inputs)
    precision = work.precision
    modules = [work.module]
    if precision is not None and precision.float_module is not work.module:
        modules.append(precision.float_module)
    try:
        results = [checked(m, work.inputs, ranges, batch, narrow=limits is None) for m in modules]
    except CompressionError:  # a builder that needs a graph reports it
        return CheckedWork(work, ranges, exported=False)
    if precision is not None:
        precision = replace(precision, float_module=results[-1].module)
    return CheckedWork(
        replace(work, module=results[0].module, precision=precision),
        ranges,
        exported=True,
        unchecked=next((r.unchecked for r in results if r.unchecked), None),
        wide=next((r.wide for r in results if r.wide), None),
    )
