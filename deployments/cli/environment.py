"""``headrace environment``: what a shell must have set before `ray start`, for ``eval``."""

from __future__ import annotations

import argparse
import shlex

from deployments.ray.environment import network_environment, serving_environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``headrace environment``: none."""


def run(args: argparse.Namespace) -> int:
    """Print an ``export`` for each variable of a cluster that is started by hand."""
    token = {"RAY_AUTH_MODE": "token"}  # without one nothing starts
    for name, value in (serving_environment() | network_environment() | token).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0
