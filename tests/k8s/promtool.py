"""promtool, which checks rule files and evaluates rules on synthetic series."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.monitoring_files import rule_files

needed = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="no promtool: install it (Debian, Ubuntu: apt-get install prometheus)",
)


def run(*arguments: object) -> None:
    """Run ``promtool ARGUMENTS``; AssertionError with its output if it fails."""
    command = ["promtool", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def try_out(tests: list[dict[str, Any]], folder: Path, every: str = "15s") -> None:
    """Run unit tests of our rules at this evaluation interval."""
    rules = []
    for path in rule_files(folder):
        raw = yaml.safe_load(path.read_text())
        for group in raw["groups"]:
            group.pop("interval", None)
            for rule in group["rules"]:
                rule.pop("annotations", None)  # promtool would compare their text
        path.write_text(yaml.safe_dump(raw))
        rules.append(str(path))
    suite = {"rule_files": rules, "evaluation_interval": every, "tests": tests}
    path = folder / "tests.yml"
    path.write_text(yaml.safe_dump(suite))
    run("test", "rules", path)


def unit(series: dict[str, str], every: str = "15s") -> dict[str, Any]:
    """Return a unit test with these series → values, at this sample interval."""
    listed = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": every, "input_series": listed}
