"""A Dockerfile as far as it can be followed without an engine: its instructions, stage by stage."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """``FROM base AS name``, and what comes after it."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.steps if name == instruction]


def stages(path: Path) -> tuple[list[str], dict[str, Stage]]:
    """Instructions before the first stage, and the stages by name."""
    lines: list[str] = []
    for line in path.read_text().splitlines():
        if lines and lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1] + line.strip()
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    before: list[str] = []
    found: dict[str, Stage] = {}
    for line in lines:
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = Stage(base, name)
        elif found:
            list(found.values())[-1].steps.append((instruction, rest))
        else:
            before.append(line)
    return before, found


def shell(found: dict[str, Stage]) -> list[str]:
    """The shell of the RUN steps."""
    (written,) = found["base"].all("SHELL")
    return [str(each) for each in json.loads(written)]
