"""Tests that need more than a process: by which fixtures they are known, and their time."""

from __future__ import annotations

CLUSTER_FIXTURES = ("cluster", "served", "closed", "operator")
"""Fixtures that start a Ray cluster."""

LONG_S = 900
"""Limit in seconds of a test that is slow or has a cluster: on a slow machine, an artifact is built
and a cluster started within it."""
