"""``headrace calibrate``: the threshold of a cascade, calibrated on labelled samples and stored."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.artifact.served import bind
from cluster.config.base import parse
from cluster.config.routing import Cascade, Route
from cluster.config.sources import DataSource
from cluster.errors import ConfigError
from cluster.progress import to_stdout
from cluster.routing.calibration import Calibration, CascadeGoal
from cluster.text_table import table
from deployments.cli.arguments import share
from deployments.config import serve_config
from deployments.jobs.calibrate import calibrate
from deployments.local import permissions
from deployments.router.thresholds import Targets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``headrace calibrate``."""
    parser.add_argument("config", type=Path, help="serve.yaml with the cascade and its models")
    parser.add_argument("route", help="name of the cascade")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--agreement", type=share, help="share of items labelled as by the last target, 0..1"
    )
    goal.add_argument(
        "--max-accuracy-drop", type=share, help="below the last target's accuracy, 0..1"
    )
    parser.add_argument("--data", help="a data source; default: that of the first target's recipe")


def run(args: argparse.Namespace) -> int:
    """Run the command with its parsed arguments and return the exit status."""
    return store_thresholds(
        args.config, args.route, args.agreement, args.max_accuracy_drop, args.data
    )


def store_thresholds(
    config: Path,
    name: str,
    agreement: float | None,
    max_accuracy_drop: float | None,
    data: str | None,
) -> int:
    """Calibrate the cascade ``name`` of a Serve config; ConfigError if it has none."""
    checked = serve_config.check(config)
    routes = {route.name: route for route in checked.router.routes} if checked.router else {}
    cascade = routes.get(name)
    if not isinstance(cascade, Cascade):
        cascades = [route.name for route in routes.values() if isinstance(route, Cascade)]
        raise ConfigError(
            f"{config}: no cascade named {name!r}; cascades: {', '.join(cascades) or 'none'}"
        )
    store = checked.router.store if checked.router else None
    permissions.require_writable(store)  # before hours of work, not after
    targets = set(reached(cascade, routes))
    models = {model.name: bind(model) for model in checked.models if model.name in targets}
    calibration = calibrate(
        cascade,
        Targets(routes, models),
        CascadeGoal(agreement, max_accuracy_drop),
        None if data is None else parse({"source": data}, DataSource, "--data"),
        store,
        to_stdout,
    )
    print(description(cascade, calibration))
    return 0


def reached(route: Route, routes: Mapping[str, Route]) -> Iterator[str]:
    """Yield the names of a route's targets, and of theirs in turn."""
    for target in route.all_targets:
        yield target.target
        if target.target in routes:
            yield from reached(routes[target.target], routes)


def description(cascade: Cascade, calibration: Calibration) -> str:
    """Return a calibration as text."""
    names = [target.target for target in cascade.targets]
    rows = []
    for title, figures in (
        ("chosen on", calibration.chosen_on),
        ("held out", calibration.held_out),
    ):
        alone = [f"{accuracy:.2%}" for accuracy in figures.target_accuracy]
        escalated = " ".join(f"{share:.1%}" for share in figures.target_share[1:])
        rows.append(
            (
                f"{title}, {figures.samples} samples",
                *alone,
                f"{figures.accuracy:.2%}",
                f"{figures.agreement:.2%}",
                escalated,
                f"{1 / figures.cost:.2f}×",
            )
        )
    header = ("", *names, cascade.name, "agreement", "escalated", f"items/s to {names[-1]}")
    return (
        f"{cascade.name}  {calibration.goal}: threshold {calibration.thresholds[0]:.6g}, stored\n\n"
        f"{table(rows, header)}"
    )
