"""``headrace inspect``: an artifact, its measurements, and the models that serve it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.artifact.layout import Layout
from cluster.artifact.lookup import absolute, is_directory, open_artifact
from cluster.artifact.manifest import Manifest, Measurement
from cluster.artifact.printable import printable
from cluster.artifact.served import trusted_directory
from cluster.artifact.store import open_store
from cluster.compression.report.baseline import baseline_name
from cluster.compression.report.table import header, limits, row
from cluster.errors import ConfigError
from cluster.text_table import table
from deployments.cli import replicas
from deployments.cli.arguments import add_json, add_store
from deployments.cli.served import dashboard, served_artifacts
from deployments.local import LocalCluster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``headrace inspect``."""
    parser.add_argument(
        "artifact",
        nargs="?",
        help="name, id, beginning of an id, or directory; with --replicas a model, or nothing",
    )
    parser.add_argument(
        "--replicas",
        action="store_true",
        help="print what a cluster serves instead: artifacts, shards, and pending replicas",
    )
    add_store(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command with its parsed arguments and return the exit status."""
    if args.replicas:
        return replicas.show(args.artifact, args.json)
    if args.artifact is None:
        raise ConfigError("inspect: no artifact is given; name one, or give --replicas")
    return show(args.artifact, args.store, args.json)


def show(ref: str, store: str | None, as_json: bool) -> int:
    """Print the artifact of that name, id or directory, after checking every file's hash."""
    artifact = open_artifact(ref, store)
    artifact.verify()
    signers = signed_by(artifact, ref, store)
    if as_json:
        facts = {"id": artifact.id, "signatures": signers}
        print(json.dumps({**facts, **artifact.manifest.model_dump(mode="json")}, indent=1))
    else:
        print(describe(artifact, signers, served_as(artifact)))
    return 0


def signed_by(artifact: Artifact, ref: str, store: str | None) -> dict[str, str]:
    """Return key id → verdict on its signature; for a directory, those of the default store.

    ConfigError if trusted keys are named that cannot be read.
    """
    place = absolute(store) if store and not is_directory(ref) else None
    signatures = open_store(place).signatures(str(artifact.id))
    if not signatures:
        return {}
    from cluster.artifact import signature  # with the library for signatures

    directory = trusted_directory()
    trusted = {} if directory is None else signature.read_trusted_keys(directory)
    verdicts = signature.judge(str(artifact.id), signatures, trusted)
    return {signer: verdict.value for signer, verdict in verdicts.items()}


def served_as(artifact: Artifact) -> list[str]:
    """Return a line for each model of the local cluster that serves an artifact of this name."""
    running = LocalCluster.running()
    if running is None:
        return []
    lines = []
    for model in served_artifacts(dashboard()):
        if model.id == artifact.id:
            lines.append(f"served     as {model.model}")
        elif model.artifact == artifact.manifest.name:
            lines.append(
                f"served     as {model.model}: another build, {model.id[:12]} of {model.store}; "
                f"up to date: {model.verdict}"
            )
    return lines


def describe(artifact: Artifact, signers: Mapping[str, str], served: Sequence[str] = ()) -> str:
    """Describe the artifact for people.

    ``signers``: key id → what its signature is worth. ``served``: lines of :func:`served_as`.
    """
    # The manifest comes from the builder of the artifact, who may be anybody.
    manifest = Manifest.model_validate(printable(artifact.manifest.model_dump(mode="json")))
    lines = [
        f"{manifest.name}  {artifact.id}",
        f"model      {_origin(manifest.recipe)}",
        *(f"input      {spec.name} {spec.datatype} {list(spec.shape)}" for spec in manifest.inputs),
        *(
            f"output     {spec.name} {spec.datatype} {list(spec.shape)}"
            for spec in manifest.outputs
        ),
        f"labels     {len(manifest.labels)}: {', '.join(manifest.labels[:10])}"
        + (", ..." if len(manifest.labels) > 10 else ""),
        f"activation {manifest.activation}",
        *(f"signed     {signer} ({worth})" for signer, worth in signers.items()),
        *served,
        *(["batches    one item per run (max_batch_size: 1)"] if manifest.one_by_one else []),
        f"quantized  {manifest.quantized_operators} operators",
        *_gate(manifest.recipe),
    ]
    lines += [_program(manifest, entry) for entry in manifest.programs]
    lines += [_layout(layout) for layout in manifest.layouts]
    for name, entry in manifest.files.items():
        lines.append(f"file       {entry.size_bytes:>12,} B  {entry.sha256[:12]}  {name}")
    if manifest.baseline is not None:
        tables = [_measured(manifest, manifest.baseline), _curves(manifest, manifest.baseline)]
        lines += ["", tables[0], "", tables[1]]
    return "\n".join(lines)


def _gate(recipe: Mapping[str, Any]) -> list[str]:
    """Return the gate's limits, if the manifest's recipe has them."""
    gate = recipe.get("gate")
    return [f"gate       {limits(gate)}"] if isinstance(gate, dict) else []


def _program(manifest: Manifest, entry: ProgramEntry) -> str:
    facts = [f"{entry.kind} for {entry.target}", f"PyTorch {entry.torch_version}"]
    facts += [f"{package} {version}" for package, version in entry.versions.items()]
    if entry.native_runner is not None:
        facts.append(f"native runner for {entry.python_abi}")
    if entry.static_files:
        sizes = ", ".join(str(program.batch) for program in entry.static_files)
        facts.append(f"static shapes for batch {sizes}")
    if manifest.fastest.get(entry.target) == entry.kind:
        facts.append("the fastest")
    return f"program    {entry.file}: {', '.join(facts)}"


def _layout(layout: Layout) -> str:
    cut = f", cut after {', '.join(layout.after)}" if layout.after else ""
    line = f"layout     {layout.key}: {len(layout.shards)} shards{cut}"
    if not (measured := layout.shards[0].latency):
        return line
    batch = measured[-1].batch
    stages = " + ".join(f"{ms:.2f}" for ms in layout.stage_ms(batch))
    return f"{line}; {stages} ms at batch {batch}"


def _measured(manifest: Manifest, baseline: Measurement) -> str:
    name, others = baseline_name(manifest.recipe), manifest.other_baselines
    rows = [row(name, baseline, baseline)]
    rows += [row(f"{name} on {target}", other, other) for target, other in others.items()]
    rows += [
        row(key, program, others.get(key.rpartition("/")[0], baseline))
        for key, program in manifest.measured.items()
    ]
    return table(rows, header(baseline, manifest.metric))


def _curves(manifest: Manifest, baseline: Measurement) -> str:
    """Return the medians at each measured batch size, as a table."""
    rows = [
        (name, *(f"{entry.p50_ms:.2f} ms, {entry.items_per_s:.0f}/s" for entry in program.latency))
        for name, program in {baseline_name(manifest.recipe): baseline, **manifest.measured}.items()
    ]
    batches = [f"batch {entry.batch}" for entry in baseline.latency]
    return table(rows, ("latency (p50), items", *batches))


def _origin(recipe: Mapping[str, Any]) -> str:
    """Return the model's source and the steps, as far as the manifest's recipe has them."""
    model, steps = recipe.get("model"), recipe.get("steps")
    source = model.get("source") if isinstance(model, dict) else None
    known = steps if isinstance(steps, list) else []
    names = [_step(step) for step in known if isinstance(step, dict)]
    return f"{source or 'unknown'}, steps: {', '.join(names) or 'none'}"


def _step(step: Mapping[str, Any]) -> str:
    kind = str(step.get("kind"))
    return f"{kind} {step['scheme']}" if "scheme" in step else kind
