"""``python -m deployments.drain`` where there is nothing to drain; else see tests/nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_where_no_ray_runs_it_says_so(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if "RAY_ADDRESS" not in name}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "deployments.drain"],
        env=environment | {"RAY_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing is drained: no node of Ray's runs here" in done.stderr
