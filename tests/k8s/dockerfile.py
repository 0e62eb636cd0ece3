"""Parser of a Dockerfile: its instructions, stage by stage."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """Stage ``FROM base AS name`` with its instructions."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.steps if name == instruction]


def stages(path: Path) -> tuple[list[str], dict[str, Stage]]:
    """Return the instructions before the first stage, and name → stage."""
    lines: list[str] = []
    for line in path.read_text().splitlines():
        if lines and lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1] + line.strip()
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    before: list[str] = []
    by_name: dict[str, Stage] = {}
    for line in lines:
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            by_name[name] = Stage(base, name)
        elif by_name:
            list(by_name.values())[-1].steps.append((instruction, rest))
        else:
            before.append(line)
    return before, by_name


def shell(by_name: dict[str, Stage]) -> list[str]:
    """Return the shell of the RUN steps."""
    (text,) = by_name["base"].all("SHELL")
    return [str(word) for word in json.loads(text)]
