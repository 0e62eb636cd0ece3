"""Model on two shards: contract and answers of a whole one, and its times by stage."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.http as triton
from prometheus import labelled
from support.http_client import ask
from support.titles import pids_titled
from support.wait import until
from tritonclient.utils import InferenceServerException

from cluster.program.program import Program, load


@pytest.fixture
def client(served) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(f"127.0.0.1:{served.port}", concurrency=16)
    yield client
    client.close()


@pytest.fixture(scope="module")
def whole(served) -> Program:
    return load(served.cut_artifact, compute_threads=1)


def random_input(served, rows: int, seed: int = 0) -> np.ndarray:
    (spec,) = served.cut_artifact.manifest.inputs
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, *spec.item_shape)).astype(spec.dtype)


def infer(client: triton.InferenceServerClient, array: np.ndarray) -> np.ndarray:
    tensor = triton.InferInput("input", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return client.infer("cut", [tensor]).as_numpy("logits")


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_answers_equal_the_whole_program_bit_for_bit(served, client, whole, rows) -> None:
    array = random_input(served, rows)
    np.testing.assert_array_equal(infer(client, array), whole.run([array])[0])


def test_concurrent_requests_of_shards_get_their_answers(served, whole) -> None:
    arrays = [random_input(served, 1 + seed % 5, seed) for seed in range(60)]

    def infer_all(some: list[np.ndarray]) -> list[np.ndarray]:
        client = triton.InferenceServerClient(f"127.0.0.1:{served.port}")  # one per thread
        try:
            return [infer(client, array) for array in some]
        finally:
            client.close()

    with ThreadPoolExecutor(12) as pool:
        parts = list(pool.map(infer_all, [arrays[first::12] for first in range(12)]))
    answers = [parts[index % 12][index // 12] for index in range(60)]
    for array, answer in zip(arrays, answers, strict=True):
        # Batches form by chance, and OpenVINO's sums depend on the batch in the last bit.
        np.testing.assert_allclose(answer, whole.run([array])[0], rtol=1e-5, atol=1e-5)


def test_sharded_model_has_paths_and_refusals_of_any_model(served, client) -> None:
    assert client.is_model_ready("cut")
    metadata = client.get_model_metadata("cut")
    assert metadata["platform"] == "headrace_openvino"
    specs = served.cut_artifact.manifest.inputs
    assert metadata["inputs"] == [spec.model_dump(mode="json") for spec in specs]
    with pytest.raises(InferenceServerException, match="at most 8"):
        infer(client, random_input(served, 9))
    wrong = ask(f"{served.url}/models/cut/infer", b"{", {"Content-Type": "application/json"})
    assert wrong.status == 400
    assert wrong.error


def test_disconnected_clients_do_not_block_the_pipeline(served, client) -> None:
    body = json.dumps(
        {
            "inputs": [
                {
                    "name": "input",
                    "datatype": "FP32",
                    "shape": [1, 1, 16, 16],
                    "data": [0.0] * 256,
                }
            ]
        }
    ).encode()
    head = (
        f"POST /v2/models/cut/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(head + body)
    started = time.monotonic()
    infer(client, random_input(served, 1))
    assert time.monotonic() - started < 10


def test_time_of_every_stage_is_exported(served, client) -> None:
    for _ in range(20):
        infer(client, random_input(served, 1))
    seconds = labelled(
        served, {"model": "cut"}, "ray_headrace_stage_seconds_total", ("stage", "doing")
    )
    for stage in ("0", "1"):
        assert seconds[stage, "compute"] > 0
        assert seconds[stage, "wait"] > seconds[stage, "compute"], (
            "the stage was idle most of the time"
        )
        assert seconds[stage, "transfer"] > 0
        assert seconds[stage, "bubble"] <= seconds[stage, "wait"]

    def batches() -> dict[tuple[str, ...], float]:
        series = "ray_headrace_stage_micro_batches_total"
        return labelled(served, {"model": "cut"}, series, ("stage",))

    until(lambda: min(batches()["0",], batches()["1",]) >= 20, batches, poll_s=0.5)


def test_inspect_shows_the_process_of_each_shard(served) -> None:
    # A separate process, whose Ray reads the cluster's token from its environment.
    environment = {**os.environ, **served.cluster.environment(), "HOME": "/nonexistent"}

    def inspect(*arguments: str) -> str:
        command = [sys.executable, "-m", "deployments.cli.main", "inspect", "--replicas"]
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    replica = json.loads(inspect("cut", "--json"))
    assert replica["waiting"] == []
    seats = replica["shards"]
    assert [(seat["stage"], seat["tp_rank"]) for seat in seats] == [(0, 0), (1, 0)]
    assert {seat["pid"] for seat in seats} == pids_titled(served.cluster, "ray::ShardActor")
    assert "tp_rank" in inspect()
    assert "model tiny: no shards, no waiting replicas" in inspect("tiny")
