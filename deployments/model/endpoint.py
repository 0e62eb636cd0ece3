"""Endpoint of a model: its metadata and the functions that answer its paths."""

from __future__ import annotations

from functools import partial

from deployments.http.paths import Endpoint
from deployments.model import infer
from deployments.model.infer import Model


def of_model(model: Model) -> Endpoint:
    """Return the endpoint of a model in this replica."""
    return Endpoint(
        name=model.name,
        version=model.version,
        platform=model.platform,
        artifact=model.artifact,
        inputs=model.manifest.inputs,
        outputs=model.manifest.outputs,
        max_batch_size=model.max_batch_size,
        infer=partial(infer.infer, model),
        predict=partial(infer.predict, model),
        ready=lambda: True,  # a replica opens its port only when it is ready
        failed=model.metrics.failed,
        statistics=model.metrics.statistics,
        activation=model.manifest.activation,
        labels=model.manifest.labels,
    )
