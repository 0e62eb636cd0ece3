"""Bucket bounds for histograms of ``ray.util.metrics``."""

from __future__ import annotations

MS_BOUNDS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000]
"""Bounds of histograms of milliseconds."""
