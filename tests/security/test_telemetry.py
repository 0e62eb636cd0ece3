"""Nothing is reported to anybody: OpenVINO would, from a process that it starts on import, and Ray
from a cluster's head."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.local.environment import cluster_environment
from deployments.local.record import Record

SCRIPT = """
import sys
import cluster
import openvino
import openvino.tools.ovc.telemetry_utils as telemetry
print(telemetry.tm.__name__)
"""


def test_openvino_reports_through_a_stub_that_sends_nothing() -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")

    def sender(script: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done
        return done.stdout.strip()

    assert sender(SCRIPT) == "openvino.tools.ovc.telemetry_stub"
    assert sender(SCRIPT.replace("import cluster\n", "")) == "openvino_telemetry"


RAY = """
from ray._common.usage import usage_lib
print(usage_lib.usage_stats_enabled())
"""


def test_ray_reports_nothing_from_a_cluster_of_headrace_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever the user's shell says, and whatever `ray disable-usage-stats` has not said.
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.setenv("HOME", str(tmp_path))

    def reports(environment: dict[str, str] | None) -> str:
        done = subprocess.run(
            [sys.executable, "-c", RAY],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout.strip()

    assert reports(None) == "True"
    record = Record("id", tmp_path, tmp_path, 1, 2, 3, 4, 5, 6, 7, 8)
    assert reports(cluster_environment(record)) == "False"
