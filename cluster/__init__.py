"""Headrace's library: compress a PyTorch model, keep it as an artifact, run it.

Nothing here imports Ray Serve; that lives in ``deployments``.
"""

__version__ = "0.1.0"
