"""The runbooks: complete, and with commands that the image can run.

That their commands and queries work is shown in tests/serve/test_monitoring.py.
"""

from __future__ import annotations

import re

import dockerfile
from monitoring_files import ROOT, blocks, runbooks

RAYS = {"ray", "serve"}
ALWAYS_THERE = {"df"}  # of coreutils


def test_each_runbook_says_what_it_means_and_what_to_do() -> None:
    for runbook in runbooks().values():
        for part in ("**Means.** ", "**Look at.**", "**Do.** "):
            assert runbook.text.count(part) == 1, f"{runbook.anchor}: {part}"
        for anchor in re.findall(r"\]\(#([^)]*)\)", runbook.text):
            assert anchor in runbooks(), f"{runbook.anchor} links to {anchor}"
    assert len(list(blocks("promql"))) > len(runbooks())


def test_the_commands_need_nothing_that_the_image_may_lack() -> None:
    _, stages = dockerfile.stages(ROOT / "k8s" / "Dockerfile")
    (checked,) = re.findall(r"for tool in ([a-z ]+); do", " ".join(stages["base"].all("RUN")))
    commands = list(blocks("sh"))
    assert commands
    for command in commands:
        for part in re.split(r"[|;&]+", command.expr):
            tool = part.split()[0]
            assert tool in RAYS | ALWAYS_THERE | set(checked.split()), command
