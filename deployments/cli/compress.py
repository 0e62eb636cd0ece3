"""``headrace compress``: submit a recipe as a Ray job and follow its log.

recipe.yaml, checked → a cluster (the configured one, the local one, or one for this job)
    → Ray job: python -m deployments.jobs.compress → log lines, JobResult → exit status
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from cluster.artifact.lookup import absolute
from cluster.artifact.store import default_store
from cluster.compression.programs import requirements
from cluster.config.base import load
from cluster.config.locate import located
from cluster.config.recipe import Recipe
from cluster.errors import ClusterError, HeadraceError
from cluster.factory import IMPORT_PATH
from cluster.progress import Terminal
from deployments.cli.arguments import add_store
from deployments.cli.job_cluster import job_cluster
from deployments.jobs import compress
from deployments.jobs.result import JobResult, last_result, split_line
from deployments.local import LocalCluster, permissions

_POLL_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``headrace compress``."""
    parser.add_argument("recipe", type=Path, help="recipe.yaml")
    add_store(parser)
    parser.add_argument("--address", help="dashboard of a Ray cluster; default RAY_ADDRESS")
    # For `headrace.compress`, which runs this command as a process.
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the command with its parsed arguments and return the exit status."""
    try:
        result = submit_recipe(args.recipe, args.store, args.address)
    except HeadraceError as error:
        _write(JobResult.failed(error), args.result)
        raise
    _write(result, args.result)
    return result.status


def submit_recipe(recipe_path: Path, store: str | None, address: str | None) -> JobResult:
    """Run the recipe's job and return its result (see :func:`submit`)."""
    recipe = read(recipe_path)
    store = absolute(store or default_store())
    if address or os.environ.get("RAY_ADDRESS"):
        return submit(recipe, recipe_path.parent, store, address, python="python")
    requirements.check(recipe.programs)  # the job runs on this machine: missing tools are named now
    permissions.require_writable(store)
    with job_cluster() as cluster:
        reach(cluster)
        return submit(recipe, recipe_path.parent, store, cluster.dashboard)


def read(path: Path) -> Recipe:
    """Read the recipe in ``path``, with paths relative to its folder; ConfigError if invalid."""
    return located(load(path, Recipe), path.parent.absolute())


def reach(cluster: LocalCluster) -> None:
    """Point this process's Ray clients to the cluster, with its token."""
    os.environ.pop("RAY_AUTH_TOKEN", None)  # Ray would prefer it to the token file
    os.environ.update(cluster.environment())


def submit(
    recipe: Recipe, home: Path, store: str, address: str | None, python: str = sys.executable
) -> JobResult:
    """Submit the job, show its log until it ends, and return its result.

    ``home``: where ``python:`` sources are imported from, besides the installed packages.
    ``address``: the cluster's dashboard; None takes the one in the environment. ClusterError if
    the job ends without an exit status of its own, or the dashboard becomes unavailable.
    """
    # Imported late: Ray reads the token's place from the environment when it is imported.
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    # Not a word of every connection that it closes.
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    if address is not None:
        # Ray's client would take this variable, or else RAY_ADDRESS, before its argument.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(
            entrypoint=f"{shlex.quote(python)} -P -m deployments.jobs.compress",
            runtime_env={"env_vars": _environment(recipe, home, store)},
            metadata={"recipe": recipe.name},
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        where = address or os.environ.get("RAY_ADDRESS")
        raise ClusterError(f"the job could not be submitted to {where}: {error}") from error
    try:
        return wait(client, job)
    except KeyboardInterrupt:
        with suppress(RuntimeError, OSError, RayError):  # it may be the cluster that went away
            client.stop_job(job)
        raise


def wait(client: Any, job: str) -> JobResult:
    """Show the log of a submitted job until it ends, and return its result.

    Without its log, the job is waited for all the same. ClusterError as :func:`submit` has it.
    """
    from ray.exceptions import RayError

    result = None
    try:
        result = asyncio.run(_follow(client, job))
    except (RuntimeError, OSError, RayError, aiohttp.ClientError) as error:
        print(f"headrace: the log of job {job} broke off: {error}", file=sys.stderr)
    try:
        # The log can end a moment before Ray has noted how the job did.
        while not (details := client.get_job_info(job)).status.is_terminal():
            time.sleep(_POLL_S)
    except (RuntimeError, OSError, RayError) as error:
        raise ClusterError(
            f"the cluster no longer answers, and job {job} may still run there: {error}"
        ) from error
    if details.driver_exit_code is None:
        raise ClusterError(f"the job ended as {details.status}: {details.message}")
    if result is None:
        with suppress(RuntimeError, OSError, RayError):  # the exit status is known without it
            result = last_result(client.get_job_logs(job))
    status = int(details.driver_exit_code)
    return JobResult(status) if result is None else replace(result, status=status)


async def _follow(client: Any, job: str) -> JobResult | None:
    """Show the log as it grows; return the job's result, which is not shown."""
    terminal = Terminal()
    result: JobResult | None = None
    rest = ""
    async for chunk in client.tail_job_logs(job):
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            result = _show(line, terminal) or result
    return _show(rest, terminal) or result if rest else result


def _show(line: str, terminal: Terminal) -> JobResult | None:
    """Show a line of the log; return the job's result if the line holds it."""
    text, result = split_line(line)
    if text or result is None:
        terminal.show(text)
    return result


def _write(result: JobResult, path: Path | None) -> None:
    if path is not None:
        path.write_text(result.to_json())


def _environment(recipe: Recipe, home: Path, store: str) -> dict[str, str]:
    """Return the job's variables: its task and, for a recipe with users' modules, their path."""
    variables = compress.environment(recipe, store)
    # As a model, a teacher, data, or a metric.
    if '"python:' in recipe.model_dump_json():
        inherited = (os.environ.get(IMPORT_PATH), os.environ.get("PYTHONPATH"))
        path = [str(home.absolute()), *inherited]
        variables[IMPORT_PATH] = os.pathsep.join(filter(None, path))
    return variables
