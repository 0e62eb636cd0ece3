"""Checking a Serve config before any cluster starts.

serve.yaml → Serve's own schema → fields that Serve would drop, the port
           → for each application of ours: ModelArgs, route prefix
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from cluster.config.base import parse, read_yaml
from cluster.config.serving import ModelArgs
from cluster.errors import ConfigError

MODEL = "deployments.app:model"
CATALOG = "deployments.app:catalog"
ROUTE = "/v2/models/"


def check(path: Path) -> list[ModelArgs]:
    """The models of a Serve config; ConfigError naming file, YAML path, value and what is allowed.

    Applications whose ``import_path`` is none of ours are left to Serve.
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
    _known_fields(config, ServeDeploySchema, f"{path}: ")
    http_options: dict[str, Any] = config.get("http_options") or {}
    _known_fields(http_options, HTTPOptionsSchema, f"{path}: http_options.")
    port = http_options.get("port", 8000)
    if type(port) is not int or not 0 < port < 2**16:  # Serve would take "8000" and 99999
        raise ConfigError(f"{path}: http_options.port: must be in 1..65535 (given: {port!r})")
    applications: list[dict[str, Any]] = config["applications"]
    models = []
    for index, application in enumerate(applications):
        where = f"{path}: applications[{index}]"
        _known_fields(application, ServeApplicationSchema, f"{where}.")
        builder: str = application["import_path"]
        if builder == MODEL:
            models.append(_model(application, where))
        elif builder.startswith("deployments.") and builder != CATALOG:
            raise ConfigError(
                f"{where}.import_path: must be {MODEL} or {CATALOG} (given: {builder!r})"
            )
    return models


def _known_fields(given: dict[str, Any], kind: type[BaseModel], where: str) -> None:
    """ConfigError for a field that Serve would leave out without a word."""
    for name in given:
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise ConfigError(f"{where}{name}: no such field; known: {known}")


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
