"""``headrace inspect``: what an artifact is and what it measured."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.artifact.artifact import MANIFEST, Artifact
from cluster.artifact.manifest import content_id
from cluster.artifact.store import open_store
from cluster.compression.report import HEADER, row, table
from deployments.cli.compress import absolute


def run(ref: str, store: str | None, as_json: bool) -> int:
    """Print the artifact of that name, id or directory, after checking every file's hash."""
    artifact = _open(ref, store)
    artifact.verify()
    if as_json:
        print(
            json.dumps({"id": artifact.id, **artifact.manifest.model_dump(mode="json")}, indent=1)
        )
    else:
        print(describe(artifact))
    return 0


def _open(ref: str, store: str | None) -> Artifact:
    directory = Path(ref)
    if (directory / MANIFEST).is_file():
        return Artifact.read(directory, content_id((directory / MANIFEST).read_bytes()))
    return open_store(absolute(store) if store else None).open(ref)


def describe(artifact: Artifact) -> str:
    """The artifact for people."""
    manifest = artifact.manifest
    steps = [_step(step) for step in manifest.recipe["steps"]]
    lines = [
        f"{manifest.name}  {artifact.id}",
        f"model      {manifest.recipe['model']['source']}, steps: {', '.join(steps) or 'none'}",
        *(f"input      {spec.name} {spec.datatype} {list(spec.shape)}" for spec in manifest.inputs),
        *(
            f"output     {spec.name} {spec.datatype} {list(spec.shape)}"
            for spec in manifest.outputs
        ),
        f"labels     {len(manifest.labels)}: {', '.join(manifest.labels[:10])}"
        + (", ..." if len(manifest.labels) > 10 else ""),
        f"quantized  {manifest.quantized_operators} operators",
    ]
    for program in manifest.programs:
        runner = f"native runner for {program.python_abi}" if program.native_runner else "no runner"
        lines.append(
            f"program    {program.file}: {program.kind} for {program.target}, "
            f"PyTorch {program.torch_version}, {runner}"
        )
    for name, entry in manifest.files.items():
        lines.append(f"file       {entry.size_bytes:>12,} B  {entry.sha256[:12]}  {name}")
    if manifest.baseline is not None:
        rows = [row("baseline (eager float32)", manifest.baseline, manifest.baseline)]
        rows += [row(t, m, manifest.baseline) for t, m in manifest.measured.items()]
        lines += ["", table(rows, HEADER)]
    return "\n".join(lines)


def _step(step: dict[str, object]) -> str:
    return f"{step['kind']} {step['scheme']}" if "scheme" in step else str(step["kind"])
