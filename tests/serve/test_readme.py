"""Examples of the README: its YAML is valid and in use, its Python and commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from cluster.config.base import parse
from cluster.config.clients import Clients
from cluster.config.recipe import Recipe
from cluster.errors import ConfigError
from deployments.cli.main import parser
from deployments.config import serve_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
RECIPE, SERVE, OWN_MODEL, ROUTER = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
(CLIENTS,) = re.findall(r"```yaml\n(.*?)```", SECURITY, re.DOTALL)
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
(PYTHON,) = [block for block in BLOCKS if "tritonclient" in block]
COMMANDS = re.findall(r"^(?:\.venv/bin/)?headrace (.+)$", README, re.MULTILINE)


@pytest.mark.parametrize(
    ("shown", "file"),
    [(RECIPE, "recipes/digits-int8.yaml"), (SERVE, "configs/digits.yaml")],
)
def test_yaml_of_readme_equals_its_file(shown: str, file: str) -> None:
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "deployments" / file).read_text())


def test_router_of_readme_equals_the_packaged_one() -> None:
    config = yaml.safe_load((ROOT / "deployments/configs/digits-routes.yaml").read_text())
    assert yaml.safe_load(ROUTER) == config["applications"][:1]


def test_clients_of_the_security_page_are_valid() -> None:
    raw = yaml.safe_load(CLIENTS)
    with pytest.raises(ConfigError, match="key_sha256"):  # a copy of it admits no client
        parse(raw, Clients, "security.md")
    raw["clients"][0]["key_sha256"] = "0" * 64
    (client,) = parse(raw, Clients, "security.md").clients
    assert client.name == "web"


@pytest.mark.parametrize("shown", [RECIPE, OWN_MODEL])
def test_recipes_of_readme_are_valid(shown: str) -> None:
    raw = yaml.safe_load(shown)
    assert parse(raw, Recipe, "README").name == raw["name"]


def test_serve_config_of_readme_is_valid(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(SERVE)
    assert [model.name for model in serve_config.check(config).models] == ["digits"]


def test_commands_of_readme_exist() -> None:
    assert len(COMMANDS) >= 4
    for command in COMMANDS:
        parser().parse_args(shlex.split(command, comments=True))


def test_python_client_of_readme_runs(served, capsys):
    code = PYTHON.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}").replace("digits", "tiny")
    exec(compile(code, "README.md", "exec"), {})
    assert re.fullmatch(r"\[\d\]\n", capsys.readouterr().out)
