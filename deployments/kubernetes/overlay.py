"""The overlays of k8s/, wherever Headrace is installed, and what kustomize makes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ConfigError

_HERE = Path(__file__).resolve()
_PLACES = (_HERE.with_name("k8s"), _HERE.parents[2] / "k8s")
"""In an installed package, and in a checkout."""

_TOOLS = (("kubectl", "kustomize"), ("kustomize", "build"))
_TIMEOUT_S = 60
_FILE = "kustomization.yaml"


def k8s_dir() -> Path:
    """The k8s/ folder; ConfigError if this installation has none."""
    for place in _PLACES:
        if (place / "base" / _FILE).is_file():
            return place
    raise ConfigError(
        f"the k8s/ folder is at none of {', '.join(map(str, _PLACES))}; install Headrace again"
    )


def overlays() -> list[str]:
    """Names of the overlays: ``cpu-dev``, ``ha/redis``, ..."""
    root = k8s_dir() / "overlays"
    return sorted(str(path.parent.relative_to(root)) for path in root.rglob(_FILE))


def overlay_dir(name: str) -> Path:
    """The overlay of that name, or the directory; ConfigError, with the names, if it is neither."""
    named = overlays()
    if name in named:
        return k8s_dir() / "overlays" / name
    if (Path(name) / _FILE).is_file():
        return Path(name).resolve()
    raise ConfigError(
        f"--overlay {name}: no such overlay, and no directory with a {_FILE}; there are "
        f"{', '.join(named)}"
    )


def build(overlay: Path, components: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """The objects of an overlay, with components on top; ConfigError if kustomize refuses it.

    ConfigError also if neither kubectl nor kustomize is installed.
    """
    command = next((tool for tool in _TOOLS if shutil.which(tool[0])), None)
    if command is None:
        raise ConfigError(
            "neither kubectl nor kustomize is on the PATH; one of them puts the overlay together: "
            "install it (https://kubernetes.io/docs/tasks/tools/)"
        )
    with tempfile.TemporaryDirectory(prefix="headrace-k8s-") as folder:
        whole = {
            "resources": [_from(folder, overlay)],
            "components": [_from(folder, each) for each in components],
        }
        (Path(folder) / _FILE).write_text(yaml.safe_dump(whole))
        try:
            done = subprocess.run(
                [*command, folder], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"{overlay}: {' '.join(command)} failed: {error}") from error
    if done.returncode:
        raise ConfigError(f"{overlay}: {' '.join(command)} refuses it: {done.stderr.strip()}")
    return [obj for obj in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if obj]


def _from(folder: str, path: Path) -> str:
    """A path as kustomize takes it: never absolute."""
    return os.path.relpath(path.resolve(), Path(folder).resolve())
