"""Files of k8s/: their names, their use, the ingress, and the README's commands and lists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from overlay_objects import EXTERNAL, NAMES, PARTS, Objects

from deployments.cli.main import parser
from deployments.kubernetes import overlay, validate

pytestmark = pytest.mark.usefixtures("kustomize")


def test_file_name_starts_with_the_kind() -> None:
    for path in overlay.k8s_dir().rglob("*.yaml"):
        if path.name == "kustomization.yaml" or "monitoring" in path.parts:
            continue
        kind = path.name.split(".")[0]
        for obj in yaml.safe_load_all(path.read_text()):
            assert obj["kind"].lower() == {"pvc": "persistentvolumeclaim"}.get(kind, kind), path


def test_every_file_is_in_a_kustomization() -> None:
    for path in overlay.k8s_dir().rglob("*.yaml"):
        folder = Path(path.parent)
        if path.name != "kustomization.yaml" and (folder / "kustomization.yaml").is_file():
            whole = yaml.safe_load((folder / "kustomization.yaml").read_text())
            assert path.name in whole["resources"], path


def test_job_has_the_recipe_of_the_readme(overlays: dict[str, Objects]) -> None:
    (recipe,) = [o for o in overlays["cpu-dev"] if o["metadata"]["name"] == "headrace-recipe"]
    ours = Path(__file__).parents[2] / "deployments" / "recipes" / "digits-int8.yaml"
    assert yaml.safe_load(recipe["data"]["recipe.yaml"]) == yaml.safe_load(ours.read_text())


def test_ingress_leads_to_the_service_of_kuberay() -> None:
    root = overlay.k8s_dir()
    objects = overlay.build(root / "overlays" / "cpu-dev", [root / "components" / "ingress"])
    (ingress,) = [obj for obj in objects if obj["kind"] == "Ingress"]
    (service,) = [obj for obj in objects if obj["kind"] == "RayService"]
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    backend = path["backend"]["service"]
    assert backend["name"] == f"{service['metadata']['name']}-serve-svc"
    assert backend["port"]["number"] == validate.SERVE_PORT
    assert ingress["spec"]["tls"][0]["secretName"] in EXTERNAL


def test_readme_commands_parse() -> None:
    text = (overlay.k8s_dir() / "README.md").read_text()
    commands = re.findall(r"^headrace (.+)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        parser().parse_args(shlex.split(command.partition(" > ")[0]))


def test_readme_lists_overlays_and_components() -> None:
    text = (overlay.k8s_dir() / "README.md").read_text()
    tree = text.split("```")[1]
    listed = {
        folder: block.split("\n", 1)[1]
        for folder, block in re.findall(r"^(\w+)/(.*?)(?=^\S)", tree, re.MULTILINE | re.DOTALL)
    }
    named = [re.split(r" {2,}", line.strip()) for line in listed["overlays"].splitlines()]
    assert {word for line in named for word in line if word in NAMES} == set(NAMES)
    assert all(line[0] in NAMES for line in named)
    assert listed["components"].split() == list(PARTS)
