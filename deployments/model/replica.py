"""Replica of a model: the artifact's program, its batcher and its HTTP application.

BoundModel → store → artifact, hashes checked ┬→ program, in this process   ┬→ batcher → endpoints
                                              └→ shards, one process each   ┘

A replica uses a program for a GPU only if Ray has assigned a GPU to it, by ``num_gpus`` in the
deployment's ``ray_actor_options``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
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
from cluster.runtime.content_digest import ContentDigest
from cluster.runtime.fatal_requests import FatalRequests
from deployments.http import auth, cors
from deployments.http.paths import AtPrefix, ModelApp
from deployments.model.endpoint import of_model
from deployments.model.health import Health
from deployments.model.infer import Model
from deployments.model.metrics import ModelMetrics, StageMetrics
from deployments.model.refusals import Exchange
from deployments.ray.names import MODELS_PATH, version_of
from deployments.ray.session import session_directory, shared_secret
from deployments.shards.program import ShardedProgram

logger = logging.getLogger("ray.serve")

SWITCH_INTERVAL_S = 0.0005
"""Python's thread switch interval, in seconds.

By default the event loop may keep the interpreter lock for 5 ms after a batch is done, which is as
long as the inference of a small model."""

FATAL_REQUESTS = "headrace-requests"
"""Directory of the session with the requests in flight of each model."""

_DIGEST_KEY = b"headrace-content-digest"
"""Name of the cluster's secret by which all replicas have the same digests."""

GRACE_PERIOD_S = 0.5
"""Grace period for in-flight requests of a replica without one of its shards, in seconds."""


def choose_program(artifact: Artifact, unfit: Mapping[str, str] | None = None) -> programs.Choice:
    """Return the artifact's fastest program for the devices that Ray assigned to this replica.

    Ray hides no GPU from actors without one, although it may be another actor's. Raises
    ProgramError as :func:`cluster.program.program.choose` does.
    """
    targets = node.targets()
    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU")
    assigned = tuple(target for target in targets if gpus or not target.startswith("cuda-"))
    try:
        return programs.choose(artifact, assigned, unfit)
    except ProgramError as error:
        if assigned == targets:
            raise
        raise ProgramError(
            f"{error}; the node has a GPU, but Ray assigned none to this replica: set num_gpus in "
            "its deployment's ray_actor_options"
        ) from None


class ModelReplica:
    """Deployment class of a model; Serve makes one per replica."""

    def __init__(
        self, bound: BoundModel, layout: str | None = None, has_keys: bool = False
    ) -> None:
        """``layout``: key of the layout that the replica runs; None: the whole program.

        ``has_keys``: whether the server has API keys.
        """
        self._has_keys = has_keys
        started = time.perf_counter()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        args = bound.args
        self._cors_origins = args.cors_origins
        artifact = open_bound(bound)
        manifest = artifact.manifest
        self._sharded: ShardedProgram | None = None
        if layout is None:
            serving = self._load_whole(args, artifact)
        else:
            serving = self._start_shards(bound, artifact, layout)
        probe = [spec.zeros(1) for spec in manifest.inputs]
        self._health = Health(self._batcher, probe, self._sharded)
        text_encoder = None
        if manifest.text is not None:
            text_encoder = TextEncoder(artifact.file(TOKENIZER).read_bytes(), manifest.text)
        metrics = ModelMetrics(args.name)
        name = f"{bound.name}-{bound.artifact_id[:16]}"
        fatal = FatalRequests(session_directory() / FATAL_REQUESTS, name)
        fatal.record_crashes()
        self._refusals = Exchange(fatal, name)
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
            digest=ContentDigest(bytes.fromhex(shared_secret(_DIGEST_KEY))),
            fatal=fatal,
            metrics=metrics,
        )
        self._load_s = time.perf_counter() - started
        metrics.loaded(self._load_s)
        logger.info(
            "model %s: artifact %s (%s), serves %s, ready in %.2f s",
            args.name,
            manifest.name,
            self._model.version,
            serving.description,
            self._load_s,
        )
        for log in logger.handlers:
            log.flush()  # Serve buffers its log, but operators look for this line

    def _load_whole(self, args: ModelArgs, artifact: Artifact) -> _Serving:
        """Load the whole program into this process, and a batcher for it."""
        choice, program = programs.load_checked(
            artifact, lambda unfit: choose_program(artifact, unfit), args.compute_threads
        )
        inputs = artifact.manifest.inputs
        sizes = {1, args.batching.max_batch_size, *(args.batching.buckets or ())}
        for size in sorted(sizes):  # the first run of a size sets up its kernels
            program.run([spec.zeros(size) for spec in inputs])
        self._batcher = Batcher(
            lambda arrays: (program.run(arrays), ()),
            inputs,
            args.batching,
            one_by_one=artifact.manifest.one_by_one,
        )
        entry = program.entry
        return _Serving(
            entry.kind,
            f"program {entry.file}: kind {entry.kind}, {choice.reason}; {program.runner} runner",
        )

    def _start_shards(self, bound: BoundModel, artifact: Artifact, key: str) -> _Serving:
        """Start the shards of a layout, and a batcher with a lane for each batch in flight."""
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
        cors.allow(self._cors_origins)
        app = AtPrefix(ModelApp(of_model(self._model)), MODELS_PATH + self._model.name)
        return auth.door(app, self._model.name, self._has_keys)

    async def check_health(self) -> None:
        """Check the replica, as :meth:`Health.check` does; Serve replaces it after three errors."""
        self._model.metrics.loaded(self._load_s)  # Ray forgets a gauge within 20 s
        await self._health.check()

    def __del__(self) -> None:
        if hasattr(self, "_refusals"):
            self._refusals.close()
        if hasattr(self, "_batcher"):
            self._batcher.close()
        if (sharded := getattr(self, "_sharded", None)) is not None:
            sharded.close()


@dataclass(frozen=True)
class _Serving:
    """Program that the replica runs, for metadata and the log."""

    kind: str
    description: str


def _end_process(reason: str) -> None:
    """End this replica after the grace period: Serve starts another one.

    A replica that stayed alive would attract requests, because its 503 is the fastest answer.
    """
    logger.error("this replica ends: %s", reason)
    time.sleep(GRACE_PERIOD_S)
    os.kill(os.getpid(), signal.SIGKILL)
