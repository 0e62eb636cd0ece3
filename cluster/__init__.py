"""Headrace's library: compress a PyTorch model, keep it as an artifact, run it.

Nothing here imports Ray Serve; that lives in ``deployments``.
"""

import sys

__version__ = "0.2.0"

# OpenVINO tells its maker of every import, from a process that it forks, unless this package is
# missing: nothing is reported to anybody from here.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
