"""Settings of a served model: batching, limits, scaling."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from cluster.config.base import MODEL_NAME, Config
from cluster.config.origins import CorsOrigins
from cluster.config.parallel import Parallel


class Batching(Config):
    """Dynamic batching: requests joined into one run of the program."""

    max_batch_size: int = Field(
        default=8, ge=1, le=1024, description="Maximum number of items per run."
    )
    max_wait_ms: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Time that an idle replica delays the first request to fill a batch, in "
        "milliseconds. With 0, batches form from requests that arrive during the previous run.",
    )
    buckets: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None,
        description="Batch sizes of the program; a batch is padded with zeros to the next size. "
        "null: no padding.",
    )

    @model_validator(mode="after")
    def _buckets_reach_the_maximum(self) -> Batching:
        if self.buckets is not None:
            if list(self.buckets) != sorted(set(self.buckets)):
                raise ValueError(f"buckets {list(self.buckets)} must be increasing")
            if not self.buckets or self.buckets[-1] != self.max_batch_size:
                raise ValueError(
                    f"the last of buckets {list(self.buckets)} must be "
                    f"max_batch_size={self.max_batch_size}"
                )
        return self


class Limits(Config):
    """Maximum size of a request; a larger one is refused with status 413."""

    body_bytes: int = Field(default=64 * 2**20, ge=1, description="Whole body, in bytes.")
    json_bytes: int = Field(
        default=4 * 2**20,
        ge=1,
        description="JSON part, in bytes; parsing may take 46 bytes of memory per byte.",
    )
    text_bytes: int = Field(
        default=2**20, ge=1, description="Text of a prediction, in bytes of UTF-8."
    )
    image_pixels: int = Field(
        default=25_000_000, ge=1, description="Width × height of an image, from its header."
    )


class CatalogArgs(Config):
    """`args:` of an application with `import_path: deployments.app:catalog`."""

    cors_origins: CorsOrigins = ()


class ModelArgs(Config):
    """`args:` of an application with `import_path: deployments.app:model`."""

    name: str = Field(
        pattern=MODEL_NAME, description="Name in URLs; route_prefix must be /v2/models/NAME."
    )
    artifact: str = Field(
        min_length=1,
        description="Name of an artifact in the store, its id, the id's beginning, or NAME@ID. "
        "A name is resolved once, when the model is deployed.",
    )
    store: str | None = Field(
        default=None,
        description="Absolute directory or fsspec URI (s3://..., gs://...) of the artifact store; "
        "null: HEADRACE_STORE, else ~/.headrace/store.",
    )
    require_signature: bool = Field(
        default=False,
        description="Serve the artifact only if a key in the directory HEADRACE_TRUSTED_KEYS has "
        "signed it (`headrace sign`).",
    )
    batching: Batching = Field(default=Batching(), description="Dynamic batching.")
    limits: Limits = Field(default=Limits(), description="Maximum size of a request.")
    cors_origins: CorsOrigins = ()
    compute_threads: int = Field(
        default=1, ge=1, description="CPU threads of one run, and number of reserved CPUs."
    )
    max_ongoing_requests: int | None = Field(
        default=None,
        ge=1,
        description="In-flight requests of a replica; null: four full batches, at least 16.",
    )
    max_queued_requests: int = Field(
        default=-1, ge=-1, description="Maximum length of the queue of requests; -1: no limit."
    )
    parallel: Parallel | None = Field(
        default=None, description="Cut of one replica over several devices; null: one device."
    )
    replicas: int = Field(
        default=1, ge=1, description="Number of replicas, when `autoscaling` is null."
    )
    autoscaling: dict[str, Any] | None = Field(
        default=None,
        description="Ray Serve's autoscaling_config (min_replicas, max_replicas, "
        "target_ongoing_requests, ...), passed through and validated by Serve.",
    )

    @model_validator(mode="after")
    def _batches_can_fill(self) -> ModelArgs:
        ongoing = self.max_ongoing_requests
        if ongoing is not None and ongoing < self.batching.max_batch_size:
            raise ValueError(
                f"max_ongoing_requests={ongoing} is below "
                f"max_batch_size={self.batching.max_batch_size}: batches could never fill"
            )
        if self.autoscaling is not None and self.replicas != 1:
            raise ValueError("give replicas or autoscaling, not both")
        return self

    @property
    def ongoing_requests(self) -> int:
        """Maximum number of in-flight requests of a replica."""
        return self.max_ongoing_requests or max(16, 4 * self.batching.max_batch_size)
