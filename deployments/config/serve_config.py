"""Checks of a Serve config, before a cluster starts.

serve.yaml → Serve's own schema → unknown fields, the port
           → for each application of Headrace: its args, autoscaling, route prefix
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from cluster.artifact.served import BoundModel
from cluster.artifact.store import default_store
from cluster.config.base import parse, read_yaml
from cluster.config.routing import RouterArgs
from cluster.config.serving import CatalogArgs, ModelArgs
from cluster.errors import ConfigError
from deployments.ray.names import MODELS_PATH

BUILDER_MODULES = ("deployments.app", "headrace.serve")
"""Modules with the builders for ``import_path``; both have the same builders."""

MODEL = "deployments.app:model"
CATALOG = "deployments.app:catalog"
ROUTER = "deployments.app:router"
CATALOG_ROUTE = "/v2"
ROUTER_ROUTE = "/"


_BUILDERS = {
    f"{module}:{builder.partition(':')[2]}": builder
    for module in BUILDER_MODULES
    for builder in (MODEL, CATALOG, ROUTER)
}


def builder_of(import_path: str | None) -> str | None:
    """Return MODEL, CATALOG or ROUTER for an ``import_path`` of either module, else None."""
    return _BUILDERS.get(import_path or "")


@dataclass(frozen=True)
class ServeConfig:
    """Models, router and port of a Serve config."""

    models: tuple[ModelArgs, ...]
    router: RouterArgs | None
    port: int | None
    """``http_options.port``; None if absent."""


def check(path: Path) -> ServeConfig:
    """Check a Serve config; ConfigError with file, YAML path, value and allowed values.

    Applications with a foreign ``import_path`` are left to Serve.
    """
    return check_content(read_yaml(path), str(path))


def check_content(config: Any, path: str) -> ServeConfig:
    """Check the plain data of a Serve config; messages name it ``path``."""
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected a mapping with `applications`, got {config!r:.60}")
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        raise _config_error(error, path) from None
    _require_known_fields(config, ServeDeploySchema, f"{path}: ")
    http_options: dict[str, Any] = config.get("http_options") or {}
    _require_known_fields(http_options, HTTPOptionsSchema, f"{path}: http_options.")
    port = http_options.get("port")
    # Serve's schema accepts "8000" and 99999.
    if "port" in http_options and (type(port) is not int or not 0 < port < 2**16):
        raise ConfigError(f"{path}: http_options.port: must be in 1..65535 (given: {port!r})")
    applications: list[dict[str, Any]] = config["applications"]
    models = []
    router = None
    catalogs = []
    for index, application in enumerate(applications):
        where = f"{path}: applications[{index}]"
        _require_known_fields(application, ServeApplicationSchema, f"{where}.")
        import_path: str = application["import_path"]
        builder = builder_of(import_path)
        if builder == MODEL:
            models.append(_model(application, where))
        elif builder == CATALOG:
            _check_catalog(application, where)
            catalogs.append(where)
        elif builder == ROUTER:
            router = _router(application, where)
        elif import_path.startswith(("deployments.", "headrace.")):
            raise ConfigError(
                f"{where}.import_path: must be {MODEL}, {CATALOG} or {ROUTER}, or the same of "
                f"headrace.serve (given: {import_path!r})"
            )
    if router is not None and catalogs:
        raise ConfigError(
            f"{catalogs[0]}: the router answers the server's own paths; remove {CATALOG}, which "
            "would hide the routes"
        )
    return ServeConfig(tuple(models), router, port)


def pin_artifacts(config: dict[str, Any], artifacts: Mapping[str, BoundModel]) -> dict[str, Any]:
    """Return a checked config whose models name their artifacts by ``NAME@ID``, with their store.

    ``artifacts``: the models' artifacts, by the models' names.
    """
    applications = []
    for application in config["applications"]:
        builder = builder_of(application["import_path"])
        if builder == ROUTER:
            references = {name: model.reference for name, model in artifacts.items()}
            args = {"store": default_store(), **application["args"], "artifacts": references}
            application = {**application, "args": args}
        if builder == MODEL:
            args = application["args"]
            model = artifacts[args["name"]]
            args = {**args, "artifact": model.reference, "store": model.args.store}
            application = {**application, "args": args}
        applications.append(application)
    return {**config, "applications": applications}


def model_args(args: Any, where: str) -> ModelArgs:
    """Check ``args:`` of a model's application; ConfigError with ``where``, field and value."""
    checked = parse(args, ModelArgs, where)
    if checked.autoscaling is not None:
        _require_known_fields(checked.autoscaling, AutoscalingConfig, f"{where}: autoscaling.")
        try:
            AutoscalingConfig.model_validate(checked.autoscaling)
        except ValidationError as error:
            raise _config_error(error, where, "autoscaling") from None
    return checked


def router_args(args: Any, where: str) -> RouterArgs:
    """Check ``args:`` of the router's application; ConfigError with ``where``, field and value."""
    return parse(args, RouterArgs, where)


def catalog_args(args: Any, where: str) -> CatalogArgs:
    """Check ``args:`` of the catalog's application; ConfigError with ``where``, field and value."""
    return parse(args or {}, CatalogArgs, where)


def _require_known_fields(fields: dict[str, Any], kind: type[BaseModel], where: str) -> None:
    """Raise ConfigError for an unknown field, which Serve would ignore silently."""
    for name in fields:
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise ConfigError(f"{where}{name}: unknown field; known: {known}")


def _model(application: dict[str, Any], where: str) -> ModelArgs:
    args = model_args(application.get("args") or {}, f"{where}.args")
    route = application.get("route_prefix", "/")
    if route != MODELS_PATH + args.name:
        raise ConfigError(
            f"{where}.route_prefix: must be {MODELS_PATH}{args.name} for a model named {args.name} "
            f"(given: {route!r})"
        )
    return args


def _router(application: dict[str, Any], where: str) -> RouterArgs:
    args = router_args(application.get("args") or {}, f"{where}.args")
    route = application.get("route_prefix", "/")
    if route != ROUTER_ROUTE:
        raise ConfigError(
            f"{where}.route_prefix: must be {ROUTER_ROUTE} for {ROUTER} (given: {route!r})"
        )
    return args


def _check_catalog(application: dict[str, Any], where: str) -> None:
    catalog_args(application.get("args"), f"{where}.args")
    route = application.get("route_prefix", "/")
    if route != CATALOG_ROUTE:
        raise ConfigError(
            f"{where}.route_prefix: must be {CATALOG_ROUTE} for {CATALOG} (given: {route!r})"
        )


def _config_error(error: ValidationError, where: str, *above: str) -> ConfigError:
    """Return an error with a line per problem: ``where``, YAML path, problem and value."""
    return ConfigError(
        "\n".join(
            f"{where}: {_yaml_path((*above, *problem['loc']))}: "
            f"{problem['msg'].removeprefix('Value error, ')} (given: {problem['input']!r:.100})"
            for problem in error.errors(include_url=False)
        )
    )


def _yaml_path(location: tuple[str | int, ...]) -> str:
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location)
    return text.lstrip(".") or "(top level)"
