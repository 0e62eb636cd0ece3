"""Nothing is reported to anybody: OpenVINO would, from a process that it starts on import."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
