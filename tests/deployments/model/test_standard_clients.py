"""NVIDIA's client and a browser's requests, over HTTP, to models in this process.

The programs are linear functions in numpy, so every right answer is a matrix product.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from support.http_client import ask
from support.http_server import mounted, serving
from tritonclient.utils import InferenceServerException

from cluster.artifact.manifest import Manifest
from cluster.config.serving import Batching, Limits
from cluster.config.sources import TextInput
from cluster.preprocess import TextEncoder
from cluster.runtime.batcher import Batcher
from cluster.runtime.content_digest import ContentDigest
from cluster.runtime.fatal_requests import FatalRequests
from cluster.tensors import TensorSpec
from deployments.http.paths import ModelApp
from deployments.model.endpoint import of_model
from deployments.model.infer import Model
from deployments.model.metrics import ModelMetrics

WORDS = {"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3, "film": 4}
LENGTH = 4
BATCH = 4
LABELS = ("negative", "positive", "neither")

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 6))
IDS = TensorSpec(name="input_ids", datatype="INT64", shape=(-1, LENGTH))
MASK = TensorSpec(name="attention_mask", datatype="INT64", shape=(-1, LENGTH))
LOGITS = TensorSpec(name="logits", datatype="FP32", shape=(-1, len(LABELS)))

random = np.random.default_rng(11)
WEIGHTS = random.standard_normal((6, 3)).astype(np.float32)
WORD_WEIGHTS = random.standard_normal((len(WORDS), 3)).astype(np.float32)


def numbers(x: np.ndarray) -> np.ndarray:
    return np.stack([row @ WEIGHTS for row in x])  # each row alone: the same bits in any batch


def words(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    rows = [WORD_WEIGHTS[i][m == 1].sum(0) for i, m in zip(ids, mask, strict=True)]
    return np.stack(rows)


def tokenizer() -> TextEncoder:
    tokenizers = pytest.importorskip("tokenizers")
    built = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="[UNK]"))
    built.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return TextEncoder(built.to_str().encode(), TextInput(max_length=LENGTH))


def of_words(text: str) -> np.ndarray:
    ids = [WORDS.get(word, 1) for word in text.split()][:LENGTH]
    return WORD_WEIGHTS[ids].sum(0, dtype=np.float32)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of two models: ``numbers``, and ``words``, which takes texts."""
    models = [
        ("numbers", (X,), lambda arrays: [numbers(*arrays)], None),
        ("words", (IDS, MASK), lambda arrays: [words(*arrays)], tokenizer()),
    ]
    directory = tmp_path_factory.mktemp("requests")
    apps, batchers = {}, []
    for name, inputs, program, encoder in models:
        batching = Batching(max_batch_size=BATCH)
        batcher = Batcher(lambda arrays, run=program: (run(arrays), ()), inputs, batching)
        batchers.append(batcher)
        manifest = Manifest(
            name=name,
            recipe={},
            recipe_key="0" * 64,
            inputs=inputs,
            outputs=(LOGITS,),
            labels=LABELS,
            activation="softmax",
            image=None,
            text=None if encoder is None else TextInput(max_length=LENGTH),
            files={},
            programs=(),
            quantized_operators=0,
            index_limits={"input_ids": len(WORDS)} if encoder else {},
        )
        model = Model(
            name=name,
            version="0123456789ab",
            platform="headrace_numpy",
            artifact=f"{name}@0123456789ab",
            manifest=manifest,
            max_batch_size=BATCH,
            limits=Limits(body_bytes=2**20, text_bytes=100),
            text_encoder=encoder,
            submit=batcher.submit,
            digest=ContentDigest(bytes(32)),
            fatal=FatalRequests(directory, name),
            metrics=ModelMetrics(name),
        )
        apps[f"/v2/models/{name}"] = ModelApp(of_model(model))
    with serving(mounted(apps)) as chosen:
        yield chosen
    for batcher in batchers:
        batcher.close()


@pytest.fixture
def client(port: int) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    yield client
    client.close()


def tensor(name: str, datatype: str, array: np.ndarray, binary: bool = True) -> triton.InferInput:
    sent = triton.InferInput(name, list(array.shape), datatype)
    sent.set_data_from_numpy(array, binary_data=binary)
    return sent


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("version", ["", "1", "0123456789ab"])
def test_client_infers_by_version_and_compressed(client, coding: str, version: str) -> None:
    x = random.standard_normal((3, 6)).astype(np.float32)
    result = client.infer(
        "numbers",
        [tensor("x", "FP32", x)],
        model_version=version,
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_array_equal(result.as_numpy("logits"), numbers(x))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_client_sends_half_precision(client, datatype: str) -> None:
    dtype = np.float16 if datatype == "FP16" else ml_dtypes.bfloat16
    x = random.standard_normal((2, 6)).astype(dtype)
    logits = client.infer("numbers", [tensor("x", datatype, x)]).as_numpy("logits")
    np.testing.assert_array_equal(logits, numbers(x.astype(np.float32)))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_client_sends_texts(client, binary: bool, shape: tuple[int, ...]) -> None:
    texts = ["good film", "bad", "an unknown ☂ film film"]
    array = np.array(texts, np.object_).reshape(shape)
    result = client.infer("words", [tensor("TEXT", "BYTES", array, binary)])
    expected = np.stack([of_words(text) for text in texts])
    np.testing.assert_allclose(result.as_numpy("logits"), expected, rtol=1e-6)
    predicted = ask_predict(client, "words", texts[0])
    assert predicted == LABELS[int(expected[0].argmax())]


def ask_predict(client: Any, model: str, text: str) -> str:
    body = json.dumps({"text": text, "top_k": 1}).encode()
    url = f"http://{client._parsed_url.host}:{client._parsed_url.port}/v2/models/{model}/predict"
    answer = ask(url, body, {"Content-Type": "application/json"})
    return str(answer.json["predictions"][0]["label"])


def test_client_sends_token_ids_as_int32(client) -> None:
    ids = np.array([[2, 4, 0, 0], [3, 0, 0, 0]], np.int32)
    inputs = [tensor("input_ids", "INT32", ids), tensor("attention_mask", "INT32", ids.clip(0, 1))]
    result = client.infer("words", inputs)
    expected = np.stack([of_words("good film"), of_words("bad")])
    np.testing.assert_allclose(result.as_numpy("logits"), expected, rtol=1e-6)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_client_gets_classes_of_texts(client, binary: bool) -> None:
    texts = np.array(["good film", "bad film"], np.object_)
    best = triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)
    result = client.infer("words", [tensor("text", "BYTES", texts)], outputs=[best])
    for row, text in zip(result.as_numpy("logits"), texts, strict=True):
        logits = of_words(text)
        for given, index in zip(row, np.argsort(-logits)[:2], strict=True):
            value, position, label = (given.decode() if binary else given).split(":")
            assert (int(position), label) == (index, LABELS[index])
            assert float(value) == pytest.approx(float(logits[index]), rel=1e-6)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"] * (BATCH + 1), "holds 5 texts, this model takes at most 4 in one request"),
        (["ü" * 51], "the text is 102 bytes, this model reads at most 100"),
    ],
)
def test_texts_over_a_limit_are_refused(client, texts: list[str], message: str) -> None:
    array = np.array(texts, np.object_)
    with pytest.raises(InferenceServerException, match=message):
        client.infer("words", [tensor("text", "BYTES", array)])


def test_texts_for_other_models_are_refused(client) -> None:
    array = np.array(["a"], np.object_)
    with pytest.raises(InferenceServerException, match="no input is named 'text'"):
        client.infer("numbers", [tensor("text", "BYTES", array)])
    with pytest.raises(InferenceServerException, match="BYTES is for texts of a text model"):
        client.infer("numbers", [tensor("x", "BYTES", array)])


def test_shared_memory_is_refused(client) -> None:
    x = np.zeros((1, 6), np.float32)
    shared = triton.InferInput("x", [1, 6], "FP32")
    shared.set_shared_memory("region", 24)
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        client.infer("numbers", [shared])
    output = triton.InferRequestedOutput("logits")
    output.set_shared_memory("region", 12)
    with pytest.raises(InferenceServerException, match="request it as binary data"):
        client.infer("numbers", [tensor("x", "FP32", x)], outputs=[output])


def test_statistics_count_what_the_client_sends(client) -> None:
    def read() -> dict[str, Any]:
        (entry,) = client.get_inference_statistics("numbers", "1")["model_stats"]
        return dict(entry)

    before = read()
    for rows in (1, 3):
        client.infer("numbers", [tensor("x", "FP32", np.zeros((rows, 6), np.float32))])
    with pytest.raises(InferenceServerException, match="takes at most 4"):
        client.infer("numbers", [tensor("x", "FP32", np.zeros((5, 6), np.float32))])
    after = read()
    assert (after["name"], after["version"]) == ("numbers", "1")
    assert after["replica"] == before["replica"]
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] == 2
    counted = {}
    for part, duration in after["inference_stats"].items():
        earlier = before["inference_stats"][part]
        counted[part] = duration["count"] - earlier["count"]
        assert (duration["ns"] > earlier["ns"]) == (counted[part] > 0), part
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert counted == {
        "success": 2,
        "fail": 1,
        **dict.fromkeys(parts, 2),
        "cache_hit": 0,
        "cache_miss": 0,
    }
    success = after["inference_stats"]["success"]["ns"]
    assert success == pytest.approx(
        sum(after["inference_stats"][part]["ns"] for part in parts), abs=4 * 100
    )
    runs = {batch["batch_size"]: batch["compute_infer"] for batch in after["batch_stats"]}
    assert runs[1]["count"] >= 1
    assert runs[3]["count"] >= 1
    assert sum(run["count"] for run in runs.values()) == after["execution_count"]
