"""Fixtures of tests that start a cluster or build an artifact, and the time limit of such tests."""

from __future__ import annotations

CLUSTER_FIXTURES = ("cluster", "served", "closed", "operator")
"""Fixtures that start a Ray cluster."""

BUILD_FIXTURES = ("int8_artifact_store", "bf16_artifact_store", "cut_artifact_store")
"""Fixtures that build an artifact, unless the cache has it."""

LONG_S = 900
"""Limit in seconds of a test that is slow, has a cluster or may build an artifact."""
