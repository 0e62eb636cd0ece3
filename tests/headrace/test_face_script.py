"""The README's Python script runs as it is written, on a cluster of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headrace

README = (Path(__file__).parents[2] / "README.md").read_text()
SCRIPT = next(
    block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "compress" in block
)
REFUSED = """
try:
    programs = [{"kinds": ["eager"]}]  # nothing to compile
    gate = {"max_bytes": 1}
    headrace.compress(model, name="refused", steps=steps[:1], gate=gate, programs=programs)
except headrace.GateError as error:
    print("refused:", error.report)
"""


def test_script_has_eight_lines() -> None:
    assert len([line for line in SCRIPT.splitlines() if line]) == 8


@pytest.mark.slow
@pytest.mark.cluster
def test_script_builds_runs_and_plans_an_artifact(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "HEADRACE_STORE": str(tmp_path / "store")}
    without = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS")
    inherited = {name: value for name, value in os.environ.items() if name not in without}
    # Two jobs in one process, each with a cluster of its own; the second is refused.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + REFUSED],
        cwd=tmp_path,
        env=inherited | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    artifact = headrace.load("digits-small", tmp_path / "store").artifact
    assert f"artifact {artifact.id}" in done.stdout
    assert re.search(r"^\d \d+\.\d+ ms$", done.stdout, re.MULTILINE)
    (report,) = re.findall(r"^refused: (.+)$", done.stdout, re.MULTILINE)
    assert Path(report).is_file()
    assert not list((tmp_path / ".headrace" / "jobs").iterdir())  # both clusters are stopped
