"""One replica of a model: the artifact's program, its batcher and its HTTP application.

BoundModel → store → artifact, hashes checked ┬→ program, in this process ┬→ batcher → endpoints
                                              └→ shards, each in its own  ┘

A program for a GPU is only for a replica that Ray has given one, by ``num_gpus`` in the
deployment's ``ray_actor_options``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

import ray
from starlette.types import ASGIApp

from cluster.artifact.artifact import TOKENIZER, Artifact
from cluster.artifact.served import BoundModel, open_bound
from cluster.config.serving import ModelArgs
from cluster.errors import ProgramError
from cluster.preprocess import TextEncoder
from cluster.program import node
from cluster.program import program as programs
from cluster.runtime.batcher import Batcher
from deployments.http import auth
from deployments.http.paths import ModelApp
from deployments.model.endpoint import of_model
from deployments.model.health import Health
from deployments.model.infer import Model
from deployments.model.metrics import ModelMetrics, StageMetrics
from deployments.ray.names import version_of
from deployments.shards.program import ShardedProgram

logger = logging.getLogger("ray.serve")

SWITCH_INTERVAL_S = 0.0005
"""How soon the compute thread gets Python's lock back when a batch is done: by default the
event loop may keep it for 5 ms, which is as long as a small model computes."""

LAST_ANSWERS_S = 0.5
"""What a replica that has lost a shard has left to tell those who wait."""


def choose_program(artifact: Artifact) -> programs.Choice:
    """The artifact's fastest program for what this replica was given of its node.

    Ray hides no GPU from actors that were given none, and the GPU may be another's. ProgramError
    as :func:`cluster.program.program.choose` raises it.
    """
    targets = node.targets()
    given_gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU")
    own = tuple(each for each in targets if given_gpus or not each.startswith("cuda-"))
    try:
        return programs.choose(artifact, own)
    except ProgramError as error:
        if own == targets:
            raise
        raise ProgramError(
            f"{error}; the node has a GPU, but this replica was given none: set num_gpus in its "
            "deployment's ray_actor_options"
        ) from None


class ModelReplica:
    """The deployment class; Serve makes one per replica."""

    def __init__(self, bound: BoundModel, layout: str | None = None) -> None:
        """``layout``: key of the cut that the replica runs; None: the whole program."""
        started = time.perf_counter()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        args = bound.args
        artifact = open_bound(bound)
        manifest = artifact.manifest
        self._sharded: ShardedProgram | None = None
        if layout is None:
            serving = self._whole(args, artifact)
        else:
            serving = self._cut(bound, artifact, layout)
        probe = [spec.zeros(1) for spec in manifest.inputs]
        self._health = Health(self._batcher, probe, self._sharded)
        text_encoder = None
        if manifest.text is not None:
            text_encoder = TextEncoder(artifact.file(TOKENIZER).read_bytes(), manifest.text)
        metrics = ModelMetrics(args.name)
        self._model = Model(
            name=args.name,
            version=version_of(bound.artifact_id),
            artifact=bound.reference,
            platform=f"headrace_{serving.kind}",
            manifest=manifest,
            max_batch_size=args.batching.max_batch_size,
            limits=args.limits,
            text_encoder=text_encoder,
            submit=self._batcher.submit,
            metrics=metrics,
        )
        self._load_s = time.perf_counter() - started
        metrics.loaded(self._load_s)
        logger.info(
            "model %s: artifact %s (%s), serves %s, ready in %.2f s",
            args.name, manifest.name, self._model.version, serving.what, self._load_s,
        )  # fmt: skip
        for log in logger.handlers:
            log.flush()  # Serve holds lines back to write many at once; this one is looked for

    def _whole(self, args: ModelArgs, artifact: Artifact) -> _Serving:
        """Load the whole program into this process, and a batcher for it."""
        choice = choose_program(artifact)
        program = programs.load_entry(artifact, choice.entry, args.compute_threads)
        inputs = artifact.manifest.inputs
        sizes = {1, args.batching.max_batch_size, *(args.batching.buckets or ())}
        for size in sorted(sizes):  # the first run of a size sets up its kernels
            program.run([spec.zeros(size) for spec in inputs])
        self._batcher = Batcher(lambda arrays: (program.run(arrays), ()), inputs, args.batching)
        entry = program.entry
        what = f"program {entry.file}: kind {entry.kind}, {choice.reason}; {program.runner} runner"
        return _Serving(entry.kind, what)

    def _cut(self, bound: BoundModel, artifact: Artifact, key: str) -> _Serving:
        """Start the shards of a layout, and a batcher with as many lanes as they hold batches."""
        args, layout = bound.args, artifact.manifest.layout(key)
        report = StageMetrics(args.name, layout).report
        self._sharded = ShardedProgram.start(bound, layout, report, _end_process)
        self._batcher = Batcher(
            self._sharded.run, artifact.manifest.inputs, args.batching, self._sharded.lanes
        )
        return _Serving(layout.kind, f"layout {key} on {len(layout.shards)} shards")

    def reconfigure(self, facts: dict[str, Any]) -> None:
        """Accept the deployment's ``user_config``: facts for operators, which change nothing."""

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return auth.door(ModelApp(of_model(self._model)), self._model.name)

    async def check_health(self) -> None:
        """Check the replica, as :meth:`Health.check` does; Serve replaces it after three errors."""
        self._model.metrics.loaded(self._load_s)  # Ray forgets a gauge within 20 s
        await self._health.check()

    def __del__(self) -> None:
        if hasattr(self, "_batcher"):
            self._batcher.close()
        if (sharded := getattr(self, "_sharded", None)) is not None:
            sharded.close()


@dataclass(frozen=True)
class _Serving:
    """What the replica runs, for metadata and the log."""

    kind: str
    what: str


def _end_process(reason: str) -> None:
    """End a replica that has lost a shard: Serve starts another, and HAProxy asks its mates.

    Left alive, it would be the first to be asked, for it answers the fastest: with status 503.
    """
    logger.error("this replica ends: %s", reason)
    time.sleep(LAST_ANSWERS_S)
    os.kill(os.getpid(), signal.SIGKILL)
