"""KubeRay's CRDs without their descriptions, for comparison with schemas.json.gz.

python tests/k8s/kuberay_crds.py DIRECTORY_OF_CRDS     (for another release; then kuberay_crds.txt)

The file is LZMA, not gzip: the pod template that repeats in each CRD makes 7 KB instead of 55.
"""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path
from typing import Any

from deployments.kubernetes.derive_schemas import read_crds

FILE = Path(__file__).with_name("kuberay_crds.json.xz")
SOURCE = Path(__file__).with_name("kuberay_crds.txt")


def read() -> list[dict[str, Any]]:
    """Return the CRDs of RayCluster, RayJob and RayService."""
    crds: list[dict[str, Any]] = json.loads(lzma.decompress(FILE.read_bytes()))
    return crds


def _without_descriptions(value: Any) -> Any:
    if isinstance(value, dict):  # a field named `description` has a schema, not a text
        return {
            name: _without_descriptions(item)
            for name, item in value.items()
            if not (name == "description" and isinstance(item, str))
        }
    return [_without_descriptions(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    text = json.dumps(
        _without_descriptions(read_crds(Path(sys.argv[1]))), sort_keys=True, separators=(",", ":")
    )
    FILE.write_bytes(lzma.compress(text.encode()))
    print(f"{FILE}: {FILE.stat().st_size} bytes")
