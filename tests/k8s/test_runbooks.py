"""Runbooks: complete, with commands that the image can run.

tests/serve/test_monitoring.py runs their commands and queries beside a running cluster.
"""

from __future__ import annotations

import re

import dockerfile
from support.monitoring_files import ROOT, blocks, runbooks

RAY_COMMANDS = {"ray", "serve"}
COREUTILS = {"df"}


def test_every_runbook_has_its_three_parts() -> None:
    for runbook in runbooks().values():
        for part in ("**Means.** ", "**Look at.**", "**Do.** "):
            assert runbook.text.count(part) == 1, f"{runbook.anchor}: {part}"
        for anchor in re.findall(r"\]\(#([^)]*)\)", runbook.text):
            assert anchor in runbooks(), f"{runbook.anchor} links to {anchor}"
    assert len(list(blocks("promql"))) > len(runbooks())


def test_commands_use_only_tools_of_the_image() -> None:
    _, stages = dockerfile.stages(ROOT / "k8s" / "Dockerfile")
    (checked,) = re.findall(r"for tool in ([a-z ]+); do", " ".join(stages["base"].all("RUN")))
    commands = list(blocks("sh"))
    assert commands
    for command in commands:
        for part in re.split(r"[|;&]+", command.expr):
            tool = part.split()[0]
            assert tool in RAY_COMMANDS | COREUTILS | set(checked.split()), command
