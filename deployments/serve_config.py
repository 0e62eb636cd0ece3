"""Checking a Serve config before any cluster starts.

serve.yaml → Serve's own schema → for each application of ours: ModelArgs, route prefix
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from cluster.config.base import parse, read_yaml
from cluster.config.serving import ModelArgs
from cluster.errors import ConfigError

MODEL = "deployments.app:model"
ROUTE = "/v2/models/"


def check(path: Path) -> list[ModelArgs]:
    """The models of a Serve config; ConfigError naming file, YAML path, value and what is allowed.

    Applications with another ``import_path`` than :data:`MODEL` are left to Serve.
    """
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected a mapping with `applications`, got {config!r:.60}")
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(
                f"{path}: {_yaml_path(problem['loc'])}: {problem['msg']} "
                f"(given: {problem['input']!r:.100})"
                for problem in error.errors(include_url=False)
            )
        ) from None
    applications: list[dict[str, Any]] = config["applications"]
    return [
        _model(application, f"{path}: applications[{index}]")
        for index, application in enumerate(applications)
        if application["import_path"] == MODEL
    ]


def _model(application: dict[str, Any], where: str) -> ModelArgs:
    args = parse(application.get("args") or {}, ModelArgs, f"{where}.args")
    route = application.get("route_prefix", "/")
    if route != ROUTE + args.name:
        raise ConfigError(
            f"{where}.route_prefix: must be {ROUTE}{args.name} for a model named {args.name} "
            f"(given: {route!r})"
        )
    return args


def _yaml_path(location: tuple[str | int, ...]) -> str:
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location)
    return text.lstrip(".") or "(top level)"
