"""Headrace's library: compress a PyTorch model, store it as an artifact, run it.

It does not import Ray; that is the task of ``deployments``.
"""

import sys

__version__ = "0.2.0"

# Disables OpenVINO's telemetry: it reports every import, from a forked process, unless this package
# is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
