"""Overlays of k8s/, in a checkout or an installed package, built by kustomize."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from deployments.kubernetes import manifest_yaml

_HERE = Path(__file__).resolve()
_PLACES = (_HERE.with_name("k8s"), _HERE.parents[2] / "k8s")
"""Candidates for the folder: in an installed package, in a checkout."""

_TOOLS = (("kubectl", "kustomize"), ("kustomize", "build"))
_TIMEOUT_S = 60
_FILE = "kustomization.yaml"


def k8s_dir() -> Path:
    """Return the k8s/ folder; ConfigError if this installation has none."""
    for place in _PLACES:
        if (place / "base" / _FILE).is_file():
            return place
    raise ConfigError(f"no k8s/ folder at {' or '.join(map(str, _PLACES))}; reinstall Headrace")


def overlays() -> list[str]:
    """Return the names of the overlays: ``cpu-dev``, ``ha/redis``, ..."""
    root = k8s_dir() / "overlays"
    return sorted(str(path.parent.relative_to(root)) for path in root.rglob(_FILE))


def overlay_dir(name: str) -> Path:
    """Return the folder of an overlay, given by name or path; ConfigError if it is neither."""
    names = overlays()
    if name in names:
        return k8s_dir() / "overlays" / name
    if (Path(name) / _FILE).is_file():
        return Path(name).resolve()
    raise ConfigError(
        f"--overlay {name}: neither an overlay nor a directory with a {_FILE}; known overlays: "
        f"{', '.join(names)}"
    )


def build(overlay: Path, components: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """Return the objects of an overlay with components added.

    ConfigError if kustomize refuses it, or if neither kubectl nor kustomize is installed.
    """
    command = next((tool for tool in _TOOLS if shutil.which(tool[0])), None)
    if command is None:
        raise ConfigError(
            "neither kubectl nor kustomize is on the PATH, and one of them must build the overlay; "
            "install kubectl (https://kubernetes.io/docs/tasks/tools/)"
        )
    with tempfile.TemporaryDirectory(prefix="headrace-k8s-") as folder:
        kustomization = {
            "resources": [_from(folder, overlay)],
            "components": [_from(folder, component) for component in components],
        }
        (Path(folder) / _FILE).write_text(manifest_yaml.dump(kustomization))
        try:
            process = subprocess.run(
                [*command, folder], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"{overlay}: {' '.join(command)} failed: {error}") from error
    if process.returncode:
        raise ConfigError(f"{overlay}: refused by {' '.join(command)}: {process.stderr.strip()}")
    return [obj for obj in manifest_yaml.load_all(process.stdout, str(overlay)) if obj]


def _from(folder: str, path: Path) -> str:
    """Return a relative path: kustomize refuses absolute ones."""
    return os.path.relpath(path.resolve(), Path(folder).resolve())
