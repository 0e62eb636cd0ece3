"""Open Inference Protocol with NVIDIA's unchanged client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from served_routes import routes
from support.http_client import ask
from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(served) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(f"127.0.0.1:{served.port}", concurrency=8)
    yield client
    client.close()


def tensor(served, array: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(served.input.name, list(array.shape), served.input.datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_client_reads_health_and_metadata(served, client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", served.version)
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "9")
    assert not client.is_model_ready("nobody")
    server = client.get_server_metadata()
    assert server["name"] == "headrace"
    assert "binary_tensor_data" in server["extensions"]
    metadata = client.get_model_metadata("tiny")
    assert metadata["name"] == "tiny"
    assert metadata["versions"] == [served.version, "1"]
    for side in ("inputs", "outputs"):
        specs = getattr(served.artifact.manifest, side)
        assert metadata[side] == [spec.model_dump(mode="json") for spec in specs]
    for version in metadata["versions"]:
        assert client.get_model_metadata("tiny", version) == metadata


def test_index_lists_models_and_routes(served) -> None:
    names = sorted(["cut", "tight", "tiny", *(route["name"] for route in routes(0.5))])
    models = {"models": [{"name": name, "ready": True} for name in names]}
    assert ask(f"{served.url}/models").json == models
    assert ask(f"{served.url}/health/live").json == {"live": True}
    assert ask(f"{served.url}/health/ready").json == {"ready": True}
    assert ask(f"{served.tiny}/ready").json == {"name": "tiny", "ready": True}


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_logits_equal_those_of_the_program(
    served, client, rows: int, binary_input: bool, binary_output: bool
) -> None:
    array = served.random_input(rows, seed=rows)
    result = client.infer(
        "tiny",
        [tensor(served, array, binary=binary_input)],
        outputs=[triton.InferRequestedOutput(served.output.name, binary_data=binary_output)],
        request_id="request 17",
        model_version=served.version,
    )
    # Bit for bit: JSON carries the shortest text that reads back as the same float.
    np.testing.assert_array_equal(result.as_numpy(served.output.name), served.run(array))
    answer = result.get_response()
    assert answer["id"] == "request 17"
    assert (answer["model_name"], answer["model_version"]) == ("tiny", served.version)


def test_version_1_is_the_one_that_is_served(served, client) -> None:
    array = served.random_input(1)
    result = client.infer("tiny", [tensor(served, array)], model_version="1")
    np.testing.assert_array_equal(result.as_numpy(served.output.name), served.run(array))
    assert result.get_response()["model_version"] == served.version


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("model", ["tiny", "mean"])
def test_client_compresses_request_and_answer(served, client, coding: str, model: str) -> None:
    array = served.random_input(3)
    plain = client.infer(model, [tensor(served, array)])
    result = client.infer(
        model,
        [tensor(served, array)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    name = plain.get_response()["outputs"][0]["name"]
    np.testing.assert_array_equal(result.as_numpy(name), plain.as_numpy(name))
    body, headers = served.binary(array)
    answer = ask(f"{served.tiny}/infer", body, {**headers, "Accept-Encoding": coding})
    assert answer.headers["content-encoding"] == coding


def test_all_outputs_are_returned_by_default(served, client) -> None:
    array = served.random_input(2)
    result = client.infer("tiny", [tensor(served, array)])
    np.testing.assert_array_equal(result.as_numpy(served.output.name), served.run(array))


def test_concurrent_requests_get_their_answers(served, client) -> None:
    arrays = [served.random_input(1, seed=seed) for seed in range(40)]
    pending = [client.async_infer("tiny", [tensor(served, array)]) for array in arrays]
    answers = [request.get_result().as_numpy(served.output.name) for request in pending]
    for array, answer in zip(arrays, answers, strict=True):
        # In a batch, another order of sums may change the last bits.
        np.testing.assert_allclose(answer, served.run(array), rtol=1e-4, atol=1e-4)


def test_raw_binary_request_gets_logits(served) -> None:
    array = served.random_input(2)
    answer = ask(f"{served.tiny}/infer", array.tobytes(), {"Inference-Header-Content-Length": "0"})
    np.testing.assert_array_equal(served.logits(answer), served.run(array))


def test_handwritten_json_gets_json_logits(served) -> None:
    array = served.random_input(1)
    tensor = {
        "name": served.input.name,
        "datatype": "FP32",
        "shape": list(array.shape),
        "data": array.tolist(),
    }
    answer = ask(f"{served.tiny}/infer", json.dumps({"inputs": [tensor]}).encode())
    assert answer.headers["content-type"] == "application/json"
    (output,) = answer.json["outputs"]
    assert output["shape"] == [1, len(served.artifact.manifest.labels)]
    logits = np.array(output["data"], np.float32).reshape(output["shape"])
    np.testing.assert_array_equal(logits, served.run(array))


def test_client_sends_half_precision(served, client) -> None:
    halves = served.random_input(2).astype(np.float16)
    for binary in (True, False):
        half = triton.InferInput(served.input.name, list(halves.shape), "FP16")
        half.set_data_from_numpy(halves, binary_data=binary)
        logits = client.infer("tiny", [half]).as_numpy(served.output.name)
        np.testing.assert_array_equal(logits, served.run(halves.astype(np.float32)))


@pytest.mark.parametrize("binary", [True, False])
def test_client_gets_the_best_classes(served, client, binary: bool) -> None:
    array = served.random_input(3, seed=5)
    wanted = triton.InferRequestedOutput(served.output.name, binary_data=binary, class_count=2)
    answer = client.infer("tiny", [tensor(served, array)], outputs=[wanted])
    best = answer.as_numpy(served.output.name)
    assert best.shape == (3, 2)
    labels = served.artifact.manifest.labels
    for row, logits in zip(best, served.run(array), strict=True):
        for text, index in zip(row, np.argsort(-logits)[:2], strict=True):
            value, position, label = (text.decode() if binary else text).split(":")
            assert (int(position), label) == (index, labels[index])
            assert np.float32(value) == logits[index]


def test_statistics_count_what_the_client_sends(served, client) -> None:
    """With the requests of other tests before, so differences count."""

    def read() -> dict[str, Any]:
        (entry,) = client.get_inference_statistics("cut", "1")["model_stats"]
        return dict(entry)

    client.infer("cut", [tensor(served, served.random_input(1))])
    before = read()
    for rows in (1, 3):
        client.infer("cut", [tensor(served, served.random_input(rows))])
    with pytest.raises(InferenceServerException):
        client.infer("cut", [tensor(served, served.random_input(9))])
    after = read()
    assert after["replica"] == before["replica"]
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] == 2
    parts = ("success", "fail", "queue", "compute_infer")
    grown = {
        part: {
            field: after["inference_stats"][part][field] - before["inference_stats"][part][field]
            for field in ("count", "ns")
        }
        for part in parts
    }
    assert [grown[part]["count"] for part in parts] == [2, 1, 2, 2]
    assert all(grown[part]["ns"] > 0 for part in parts)
    assert grown["success"]["ns"] >= grown["queue"]["ns"] + grown["compute_infer"]["ns"]
    assert after["last_inference"] >= before["last_inference"] > 0
    (route,) = client.get_inference_statistics("mean")["model_stats"]
    assert route["name"] == "mean"


def test_client_reads_the_index_of_models(served, client) -> None:
    index = {model["name"]: model for model in client.get_model_repository_index()}
    assert set(index) == {"cut", "tight", "tiny", *(route["name"] for route in routes(0.5))}
    assert index["tiny"] == {"name": "tiny", "version": "1", "state": "READY", "reason": ""}


def test_extensions_that_are_absent_say_what_to_do(served, client) -> None:
    for call, message in (
        (lambda: client.load_model("tiny"), "headrace up CONFIG"),
        (client.get_inference_statistics, "GET /v2/models/NAME/stats"),
        (lambda: client.get_trace_settings("tiny"), "tracing_config"),
        (client.get_log_settings, "logging_config"),
        (client.get_system_shared_memory_status, "shared memory is not supported"),
    ):
        with pytest.raises(InferenceServerException, match=message):
            call()


def test_client_gets_the_reason_of_a_refusal(served, client) -> None:
    array = tensor(served, served.random_input(1))
    with pytest.raises(InferenceServerException, match=r"\[404\] model tiny has no version '9'"):
        client.infer("tiny", [array], model_version="9")
    with pytest.raises(InferenceServerException, match=r"\[404\] no model 'nobody' is served"):
        client.infer("nobody", [array])
    outputs = [triton.InferRequestedOutput(name) for name in (served.output.name, "boxes")]
    with pytest.raises(InferenceServerException, match=r"\[400\] no output is named 'boxes'"):
        client.infer("tiny", [array], outputs=outputs)
    served.assert_answers()
