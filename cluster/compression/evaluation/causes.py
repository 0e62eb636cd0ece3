"""Likely causes of a program's loss of accuracy that lie in the machine, not in the model."""

from __future__ import annotations

from typing import Any

from cluster.artifact.manifest import Manifest
from cluster.program import node

_VNNI = ("avx512_vnni", "avx_vnni")
"""CPU flags, one of which stands for int8 products that are summed in 32 bits."""

_INT8_ACTIVATIONS = ("static_int8", "dynamic_int8")
"""Schemes whose kernels multiply int8 activations by int8 weights."""


def saturation(scheme: str | None, target: str) -> str | None:
    """Return why int8 sums lose accuracy on this machine's CPU, and what to change; None if not.

    Without VNNI, oneDNN's kernels add pairs of products in 16 bits, which saturate (oneDNN,
    "Nuances of int8 Computations").
    """
    int8 = scheme in _INT8_ACTIVATIONS and target.startswith("cpu-")
    if not int8 or any(flag in node.cpu_features() for flag in _VNNI):
        return None
    return (
        f"this CPU ({node.cpu_name()}) has no VNNI, so pairs of int8 products are added in 16 bits "
        "and saturate; build and serve on CPUs with VNNI, keep sensitive layers by "
        f"steps[].keep_most_sensitive, or use another scheme than {scheme}"
    )


def likely_causes(manifest: Manifest) -> dict[str, str]:
    """Return the artifact's programs with a known cause on this machine → the cause."""
    steps: list[dict[str, Any]] = manifest.recipe.get("steps", [])
    scheme = steps[-1].get("scheme") if steps else None
    causes = {entry.key: saturation(scheme, entry.target) for entry in manifest.programs}
    return {key: cause for key, cause in causes.items() if cause is not None}
