"""Real cluster for all tests of serving: three models and a router, behind HAProxy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_routes import routes
from support import cluster, serve_config
from support.http_client import Answer, ask
from support.titles import replica_pid
from support.wait import WITHIN_S

from cluster.activation import probabilities
from cluster.artifact.artifact import Artifact
from cluster.artifact.local import LocalStore
from cluster.config.sources import DataSource
from cluster.data import load_data
from cluster.data.samples import Samples
from cluster.program.program import Program, load
from cluster.tensors import TensorSpec
from deployments.local import LocalCluster

ARTIFACT = "tiny-int8"
BATCH = 8
BODY_BYTES, JSON_BYTES = 2**20, 2**17
PAGE = "https://app.example"
"""Origin of a page whose scripts may call ``tiny`` and the router."""


@dataclass(frozen=True)
class Served:
    """Cluster and its artifact, served as ``tiny`` and, with small limits, as ``tight``.

    A third model, ``cut``, runs as two pipeline stages.
    """

    cluster: LocalCluster
    artifact: Artifact
    program: Program
    """The artifact's program in this process, the reference for the served one."""

    cut_artifact: Artifact

    threshold: float
    """Confidence threshold of the cascades: `tiny` exceeds it for half of all random inputs."""

    started_at: float
    """Time of the deployment, on the monotonic clock."""

    body_bytes: int = BODY_BYTES
    json_bytes: int = JSON_BYTES

    @property
    def url(self) -> str:
        return f"{self.cluster.http}/v2"

    @property
    def tiny(self) -> str:
        return f"{self.url}/models/tiny"

    @property
    def tight(self) -> str:
        return f"{self.url}/models/tight"

    @property
    def port(self) -> int:
        return self.cluster.record.http_port

    @property
    def version(self) -> str:
        return str(self.artifact.id)[:12]

    @property
    def input(self) -> TensorSpec:
        (spec,) = self.artifact.manifest.inputs
        return spec

    @property
    def output(self) -> TensorSpec:
        (spec,) = self.artifact.manifest.outputs
        return spec

    def random_input(self, rows: int, seed: int = 0) -> np.ndarray:
        """Return a random float32 ``[rows, ...]`` input of the model."""
        return _random(self.input, rows, seed)

    def run(self, array: np.ndarray) -> np.ndarray:
        """Return logits ``[rows, classes]``, computed in this process."""
        (logits,) = self.program.run([np.ascontiguousarray(array)])
        return logits

    def binary(self, array: np.ndarray) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of a binary request for binary logits."""
        tensor = {
            "name": self.input.name,
            "datatype": self.input.datatype,
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        text = json.dumps(head).encode()
        return text + array.tobytes(), {"Inference-Header-Content-Length": str(len(text))}

    def logits(self, answer: Answer) -> np.ndarray:
        """Return the logits of a binary answer."""
        assert answer.status == 200, answer
        length = int(answer.headers["inference-header-content-length"])
        shape = json.loads(answer.body[:length])["outputs"][0]["shape"]
        return np.frombuffer(answer.body[length:], self.output.dtype).reshape(shape)

    def assert_answers(self) -> None:
        """Check that a plain request gets the right answer."""
        array = self.random_input(1, seed=1)
        logits = self.logits(ask(f"{self.tiny}/infer", *self.binary(array)))
        np.testing.assert_array_equal(logits, self.run(array))

    def replica_pid(self, model: str) -> int:
        """Return the process that serves ``model``."""
        return replica_pid(self.cluster, model)

    def memory(self, model: str) -> AbstractContextManager[Memory]:
        """Measure the memory of the replica of ``model``."""
        return _watched(self.replica_pid(model))


@dataclass
class Memory:
    """Peak growth of a process's memory, in bytes."""

    grown_bytes: int = 0


@contextmanager
def _watched(pid: int) -> Iterator[Memory]:
    status, memory = Path(f"/proc/{pid}/status"), Memory()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak to the present size
    before = _kib(status.read_text(), "VmRSS")
    yield memory
    memory.grown_bytes = (_kib(status.read_text(), "VmHWM") - before) * 1024


def _kib(status: str, field: str) -> int:
    return int(status.partition(f"{field}:")[2].split()[0])


@pytest.fixture(scope="session")
def served(
    int8_artifact_store: Path, cut_artifact_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    artifact = LocalStore(int8_artifact_store).open(ARTIFACT)
    program = load(artifact, compute_threads=1)
    threshold = _middling(program, artifact.manifest.inputs[0])
    config = serve_config.write(
        directory, *_applications(int8_artifact_store, cut_artifact_store, threshold)
    )
    here = Path(__file__).parent
    with cluster.running(directory / "state", cpus=7, prepend_path=here) as started:
        started.deploy(config, timeout_s=WITHIN_S)
        cut = LocalStore(cut_artifact_store).open("tiny-cut")
        yield Served(started, artifact, program, cut, threshold, time.monotonic())


def _middling(program: Program, spec: TensorSpec) -> float:
    """Return the median confidence of the program over random inputs."""
    items = _random(spec, 64, 0)
    logits = np.concatenate([program.run([item[None]])[0] for item in items])
    return round(float(np.median(probabilities(logits, "softmax").max(axis=1))), 6)


def _random(spec: TensorSpec, rows: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, *spec.item_shape)).astype(spec.dtype)


def _applications(store: Path, cut_store: Path, threshold: float) -> list[dict[str, Any]]:
    batching = {"max_batch_size": BATCH}
    limits = {"body_bytes": BODY_BYTES, "json_bytes": JSON_BYTES}
    parallel = {"pipeline": 2, "placement": "STRICT_PACK"}
    return [
        serve_config.router(routes(threshold), cors_origins=[PAGE]),
        serve_config.model("tiny", ARTIFACT, store, batching=batching, cors_origins=[PAGE]),
        serve_config.model("tight", ARTIFACT, store, limits=limits),
        serve_config.model("cut", "tiny-cut", cut_store, batching=batching, parallel=parallel),
    ]


@pytest.fixture(scope="session")
def held_out(served: Served) -> Samples:
    """Digits outside the training set of the artifact, as PNG files."""
    recipe = served.artifact.manifest.recipe
    return load_data(DataSource.model_validate(recipe["data"]), recipe["seed"]).test


@pytest.fixture(scope="session")
def pngs(held_out: Samples) -> list[bytes]:
    files = [held_out.raw(index) for index in range(len(held_out))]
    assert all(isinstance(file, bytes) for file in files)
    return files
