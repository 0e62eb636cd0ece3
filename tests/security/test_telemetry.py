"""Disabled telemetry of OpenVINO, at import, and of Ray, on a cluster's head."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.local.environment import cluster_environment
from deployments.local.record import ClusterRecord

SCRIPT = """
import sys
import cluster
import openvino
import openvino.tools.ovc.telemetry_utils as telemetry
print(telemetry.tm.__name__)
"""


def test_openvino_telemetry_is_disabled() -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")

    def sender(script: str) -> str:
        process = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
        )
        assert process.returncode == 0, process
        return process.stdout.strip()

    assert sender(SCRIPT) == "openvino.tools.ovc.telemetry_stub"
    assert sender(SCRIPT.replace("import cluster\n", "")) == "openvino_telemetry"


RAY = """
from ray._common.usage import usage_lib
print(usage_lib.usage_stats_enabled())
"""


def test_ray_usage_reports_are_disabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Independent of the user's environment and of `ray disable-usage-stats`.
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.setenv("HOME", str(tmp_path))

    def reports(environment: dict[str, str] | None) -> str:
        process = subprocess.run(
            [sys.executable, "-c", RAY],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == 0, process
        return process.stdout.strip()

    assert reports(None) == "True"
    record = ClusterRecord("id", tmp_path, tmp_path, 1, 2, 3, 4, 5, 6, 7, 8)
    assert reports(cluster_environment(record)) == "False"
