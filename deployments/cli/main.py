"""The ``headrace`` command: arguments in, an exit status out.

    headrace NAME ... → COMMANDS → deployments.cli.NAME: add_arguments, then run → exit status

Only the module of the command that runs is imported: PyTorch and Ray take seconds to import.

Exit status: 0 done, 2 a wrong recipe, config or argument, 1 any other failure, 130 interrupted,
after clean-up; ``compress`` adds 3 for a build that the gate rejected.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from types import FrameType
from typing import Any

from cluster import __version__
from cluster.errors import HeadraceError
from deployments.jobs.result import exit_status

COMMANDS = {
    "compress": "build an artifact from a recipe, as a Ray job",
    "inspect": "print an artifact, its hashes checked; or what is served",
    "sign": "sign an artifact with an ed25519 key",
    "plan": "say how an artifact would spread over devices",
    "calibrate": "find the threshold of a cascade on labelled samples, and store it",
    "k8s": "write manifests for KubeRay",
    "up": "start a local cluster and serve a config on it",
    "down": "stop the local cluster",
    "environment": "print what a shell needs to `ray start` a node of a cluster",
    "demo": "train, compress, serve and ask a digit classifier",
}
"""Name of a command, which is also its module here → its line of help."""


def parser(commands: Iterable[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Return the parser of the command line, with the arguments of ``commands``."""
    top = argparse.ArgumentParser(
        prog="headrace", description="Compress PyTorch models and serve them on Ray Serve."
    )
    top.add_argument("--version", action="version", version=f"headrace {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = set(commands)
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text)
        if name in wanted:
            module(name).add_arguments(subparser)
    return top


def module(name: str) -> Any:
    """Return the module of a command: ``add_arguments(parser)`` and ``run(args) -> int``."""
    return import_module(f"deployments.cli.{name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error of Headrace becomes one line on standard error."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        args = parser(set(words[:1]) & COMMANDS.keys()).parse_args(words)
        _interrupt_on(signal.SIGTERM, signal.SIGHUP)
        status: int = module(args.command).run(args)
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return exit_status(error)
    except KeyboardInterrupt:
        print("headrace: interrupted", file=sys.stderr)
        return 130
    return status


def _interrupt_on(*signals: signal.Signals) -> None:
    """Let ``signals`` end the command as Ctrl-C does: it stops whatever it has started."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for ignored in signals:  # a second signal must not end the clean-up
            signal.signal(ignored, signal.SIG_IGN)
        raise KeyboardInterrupt

    for handled in signals:
        if signal.getsignal(handled) != signal.SIG_IGN:  # nohup ignores SIGHUP on purpose
            signal.signal(handled, interrupt)


if __name__ == "__main__":
    sys.exit(main())
