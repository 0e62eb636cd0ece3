"""The ``headrace`` command: arguments in, an exit status out.

Exit status: 0 done, 2 a wrong recipe, config or argument, 1 anything else that failed;
``compress`` adds 3 for a build that the gate rejected. 130: interrupted, ended or hung up, after
cleaning up.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from cluster import __version__
from cluster.errors import ConfigError, HeadraceError, PlanError, SourceError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="headrace", description="Compress PyTorch models and serve them on Ray Serve."
    )
    top.add_argument("--version", action="version", version=f"headrace {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    compress = commands.add_parser("compress", help="build an artifact from a recipe, as a Ray job")
    compress.add_argument("recipe", type=Path, help="recipe.yaml")
    compress.add_argument(
        "--store", help="directory or URI; default HEADRACE_STORE or ~/.headrace/store"
    )
    compress.add_argument("--address", help="a Ray cluster's dashboard; default RAY_ADDRESS")

    inspect = commands.add_parser("inspect", help="print an artifact, its hashes checked")
    inspect.add_argument(
        "artifact",
        nargs="?",
        help="name, id, beginning of an id, or directory; with --replicas a model, or nothing",
    )
    inspect.add_argument(
        "--replicas", action="store_true", help="instead: which shard of what is served sits where"
    )
    inspect.add_argument(
        "--store", help="directory or URI; default HEADRACE_STORE or ~/.headrace/store"
    )
    inspect.add_argument("--json", action="store_true", help="for programs")

    sign = commands.add_parser("sign", help="vouch for an artifact with an ed25519 key")
    sign.add_argument("artifact", help="name, id or beginning of an id")
    sign.add_argument(
        "--key", type=Path, required=True, help="private key: `openssl genpkey -algorithm ed25519`"
    )
    sign.add_argument(
        "--store", help="directory or URI; default HEADRACE_STORE or ~/.headrace/store"
    )

    plan = commands.add_parser("plan", help="say how an artifact would spread over devices")
    plan.add_argument("artifact", help="name, id, beginning of an id, or directory")
    plan.add_argument(
        "--devices",
        help="COUNTxTARGET[:MEMORY][@NODES], such as 2xcpu-x86:4GiB or 8xcuda-sm90:80GiB@2; "
        "default: the cores of this machine",
    )
    plan.add_argument("--pipeline", type=_count, help="stages; default: the fewest devices")
    plan.add_argument("--tensor", type=_count, help="tensor ranks of a stage")
    plan.add_argument("--batch", type=_count, default=8, help="items of a micro-batch; default 8")
    plan.add_argument("--placement", choices=("PACK", "STRICT_PACK", "SPREAD"), default="PACK")
    plan.add_argument("--explain", action="store_true", help="show every stage")
    plan.add_argument(
        "--store", help="directory or URI; default HEADRACE_STORE or ~/.headrace/store"
    )
    plan.add_argument("--json", action="store_true", help="for programs")

    calibrate = commands.add_parser(
        "calibrate", help="find the threshold of a cascade on labelled samples, and keep it"
    )
    calibrate.add_argument("config", type=Path, help="serve.yaml with the cascade and its models")
    calibrate.add_argument("route", help="name of the cascade")
    goal = calibrate.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--agreement", type=_share, help="share of items labelled as by the last target, 0..1"
    )
    goal.add_argument(
        "--max-accuracy-drop", type=_share, help="below the last target's accuracy, 0..1"
    )
    calibrate.add_argument(
        "--data", help="a data source; default: that of the first target's recipe"
    )

    k8s = commands.add_parser("k8s", help="write manifests for KubeRay")
    k8s_commands = k8s.add_subparsers(dest="k8s_command", required=True, metavar="COMMAND")
    render = k8s_commands.add_parser("render", help="those of one model, checked")
    render.add_argument("--model", required=True, help="name, id, or beginning of an artifact's id")
    render.add_argument("--name", help="in URLs; default: the artifact's")
    render.add_argument("--plan", type=Path, metavar="FILE", help="of `headrace plan --json`")
    render.add_argument(
        "--overlay", default="cpu-dev", help="one of k8s/overlays, or a directory; default cpu-dev"
    )
    render.add_argument("--image", required=True, help="NAME@sha256:... of the serving image")
    render.add_argument(
        "--store",
        help="directory or URI to read the manifest from; replicas read from a URI, too, and else "
        "from the claim",
    )
    render.add_argument(
        "--require-signature",
        action="store_true",
        help="replicas load the artifact only if a key of the Secret headrace-trusted-keys has "
        "signed it",
    )
    render.add_argument("--out", type=Path, metavar="DIR", help="default: standard output")

    up = commands.add_parser("up", help="start a local cluster and serve a config on it")
    up.add_argument("config", type=Path, nargs="?", help="serve.yaml")
    commands.add_parser("down", help="stop the local cluster")

    commands.add_parser(
        "environment", help="print what a shell needs to `ray start` a cluster's node"
    )

    demo = commands.add_parser("demo", help="train, compress, serve and ask a digit classifier")
    demo.add_argument("--keep", action="store_true", help="leave it serving")
    demo.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; errors of Headrace become one line on standard error."""
    args = parser().parse_args(arguments)
    _interrupt_on(signal.SIGTERM, signal.SIGHUP)
    try:
        return _run(args)
    except (ConfigError, PlanError, SourceError) as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 2
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("headrace: interrupted", file=sys.stderr)
        return 130


def _interrupt_on(*signals: signal.Signals) -> None:
    """Let ``signals`` end the command as Ctrl-C does: what it has started, it stops."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in signals:  # a second one must not end the cleaning up
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in signals:
        if signal.getsignal(each) != signal.SIG_IGN:  # as nohup has it, on purpose
            signal.signal(each, interrupt)


def _run(args: argparse.Namespace) -> int:
    # Each command is imported when it runs: PyTorch and Ray take seconds to import.
    match args.command:
        case "compress":
            from deployments.cli import compress

            return compress.run(args.recipe, args.store, args.address)
        case "inspect":
            return _inspect(args)
        case "sign":
            from deployments.cli import sign

            return sign.run(args.artifact, args.key, args.store)
        case "plan":
            from deployments.cli import plan

            return plan.run(
                args.artifact, args.store, args.devices, args.pipeline, args.tensor, args.batch,
                args.placement, args.explain, args.json,
            )  # fmt: skip
        case "calibrate":
            from deployments.cli import calibrate

            return calibrate.run(
                args.config, args.route, args.agreement, args.max_accuracy_drop, args.data
            )
        case "k8s":
            from deployments.cli import k8s

            return k8s.render(
                args.model, args.name, args.plan, args.overlay, args.image, args.store,
                args.require_signature, args.out,
            )  # fmt: skip
        case "up":
            from deployments.cli import up_down

            return up_down.up(args.config)
        case "down":
            from deployments.cli import up_down

            return up_down.down()
        case "environment":
            from deployments.cli import environment

            return environment.run()
        case _:
            from deployments.cli import demo

            return demo.run(args.keep, args.json)


def _inspect(args: argparse.Namespace) -> int:
    if args.replicas:
        from deployments.cli import replicas

        return replicas.run(args.artifact, args.json)
    if args.artifact is None:
        raise ConfigError("inspect: name an artifact, or give --replicas")
    from deployments.cli import inspect

    return inspect.run(args.artifact, args.store, args.json)


def _count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _share(text: str) -> float:
    """A number in 0..1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number in 0..1")
    return value


if __name__ == "__main__":
    sys.exit(main())
