"""Prometheus' own tool, which reads its files and tries rules on made-up series."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring_files import rule_files

needed = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="no promtool: install it (Debian, Ubuntu: apt-get install prometheus)",
)


def run(*arguments: object) -> None:
    """``promtool ARGUMENTS``; AssertionError, with what it says, unless it finds all well."""
    command = ["promtool", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def try_out(tests: list[dict[str, Any]], folder: Path, every: str = "15s") -> None:
    """Unit tests of our rules, which are looked at that often."""
    rules = []
    for path in rule_files(folder):
        raw = yaml.safe_load(path.read_text())
        for group in raw["groups"]:
            group.pop("interval", None)
            for rule in group["rules"]:
                rule.pop("annotations", None)  # promtool would compare them word by word
        path.write_text(yaml.safe_dump(raw))
        rules.append(str(path))
    whole = {"rule_files": rules, "evaluation_interval": every, "tests": tests}
    path = folder / "tests.yml"
    path.write_text(yaml.safe_dump(whole))
    run("test", "rules", path)


def unit(series: dict[str, str], every: str = "15s") -> dict[str, Any]:
    """A unit test's series → values, a sample that often."""
    listed = [{"series": each, "values": values} for each, values in series.items()]
    return {"interval": every, "input_series": listed}
