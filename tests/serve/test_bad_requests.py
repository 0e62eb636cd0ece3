"""Faulty requests of clients: each gets a JSON 4xx with the expectation; the server continues."""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
from PIL import Image
from support.http_client import Raw, ask

from deployments.model.images import LARGE_AT_ONCE

Change = Callable[[dict[str, Any]], object]

JSON = {"Content-Type": "application/json"}
PNG = {"Content-Type": "image/png"}
WEBP = {"Content-Type": "image/webp"}


@pytest.fixture(autouse=True)
def continues(served):
    yield
    served.assert_answers()


def json_request(served, change: Change) -> bytes:
    """Return a valid request of one item after ``change``."""
    array = served.random_input(1)
    tensor: dict[str, Any] = {
        "name": served.input.name,
        "datatype": served.input.datatype,
        "shape": list(array.shape),
        "data": array.ravel().tolist(),
    }
    change(tensor)
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.update(name="pixels"), r"no input is named 'pixels' .*; expected 'input'"),
        (lambda t: t.update(datatype="INT64"), r"datatype must be 'FP32', got 'INT64'"),
        (lambda t: t.update(datatype="FP8"), r"datatype must be 'FP32', got 'FP8'"),
        (lambda t: t["shape"].insert(1, 7), r"shape must be \[-1, \d+, \d+, \d+\]"),
        (lambda t: t["shape"].__setitem__(0, 10**18), r"its shape .* needs \d+"),
        (lambda t: t["shape"].__setitem__(0, 0), r"a batch of at least 1"),
        (lambda t: t["shape"].__setitem__(0, -1), r"a batch of at least 1"),
        (lambda t: t["data"].pop(), r"data has \d+ elements, its shape .* needs \d+"),
        (lambda t: t["data"].__setitem__(3, "a"), r"element 3 of data .*, FP32 takes numbers"),
        (lambda t: t["data"].__setitem__(3, float("nan")), r"NaN and Infinity are not JSON"),
        (lambda t: t["data"].__setitem__(3, 1e39), r"FP32 takes numbers within"),
        (lambda t: t.pop("data"), r"needs either data or parameters.binary_data_size"),
        (lambda t: t.update(parameters={"binary_data_size": 4}), r"got both"),
    ],
)
def test_wrong_tensor_is_refused(served, change: Change, expected: str) -> None:
    answer = ask(f"{served.tiny}/infer", json_request(served, change), JSON)
    assert answer.status == 400
    assert re.search(expected, answer.error), answer.error


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "the body is empty"),
        (b"[1, 2]", "expected a JSON object, got"),
        (b'{"inputs": [', "the JSON part cannot be parsed"),
        (b'{"inputs": []}', "inputs must be a list of tensors"),
        (b"\xff\xfe", "the JSON part cannot be parsed"),
        (b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}", "the JSON part cannot be parsed"),
    ],
)
def test_body_without_request_is_refused(served, body: bytes, expected: str) -> None:
    answer = ask(f"{served.tiny}/infer", body, JSON)
    assert answer.status == 400
    assert expected in answer.error


def test_binary_tensor_of_wrong_length_is_refused(served) -> None:
    body, headers = served.binary(served.random_input(2))
    for wrong, expected in (
        (body[:-1], "bytes are left after the JSON"),
        (body + b"\0", "1 bytes are left over"),
    ):
        answer = ask(f"{served.tiny}/infer", wrong, headers)
        assert answer.status == 400
        assert expected in answer.error
    for length, expected in (("x", "expected a number of bytes"), ("10000000", "the body has")):
        answer = ask(f"{served.tiny}/infer", body, {**headers, next(iter(headers)): length})
        assert answer.status == 400
        assert expected in answer.error


def test_more_items_than_a_batch_are_refused(served) -> None:
    answer = ask(f"{served.tiny}/infer", *served.binary(served.random_input(9)))
    assert answer.status == 400
    assert "holds 9 items, this model takes at most 8" in answer.error


def test_json_and_body_over_their_limits_are_refused(served) -> None:
    large = json.dumps({"id": "x" * served.json_bytes}).encode()
    answer = ask(f"{served.tight}/infer", large, JSON)
    assert answer.status == 413
    assert f"the limit is {served.json_bytes}; send large tensors as binary" in answer.error
    answer = ask(f"{served.tight}/infer", bytes(served.body_bytes + 1), JSON)
    assert answer.status == 413
    assert f"this model reads at most {served.body_bytes}" in answer.error


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG with that size in its header and too few pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_image_with_huge_claimed_size_uses_no_memory(served) -> None:
    with served.memory("tiny") as memory:
        for _ in range(3):
            answer = ask(f"{served.tiny}/predict", png_claiming(60000, 60000), PNG)
            assert answer.status == 413
            assert "the image is over the limit of 25000000 pixels" in answer.error
    assert memory.grown_bytes < 20e6


def test_large_images_in_small_files_are_decoded_in_turn(served) -> None:
    """Images within the limit, 40 bytes each; decoding one takes 16 bytes per pixel."""
    file = BytesIO()
    Image.new("RGBA", (4000, 4000), (1, 2, 3, 128)).save(file, "WEBP", lossless=True, method=0)
    assert len(file.getvalue()) < 100
    one = 16 * 4000 * 4000
    with served.memory("tiny") as memory, ThreadPoolExecutor(12) as pool:
        sent = [
            pool.submit(ask, f"{served.tiny}/predict", file.getvalue(), WEBP) for _ in range(12)
        ]
        served.assert_answers()  # other requests continue meanwhile
        assert [answer.result().status for answer in sent] == [200] * 12
    assert memory.grown_bytes < 1.25 * LARGE_AT_ONCE * one


@pytest.mark.parametrize(
    ("body", "headers", "status", "expected"),
    [
        (b"GIF89a but no image", PNG, 400, "are not an image of a supported format: PNG, JPEG"),
        (png_claiming(40, 40), PNG, 400, "damaged or truncated"),
        (b"hello", {"Content-Type": "text/plain"}, 415, "/predict accepts image/png"),
        (b"hello", {}, 415, "/predict accepts image/png"),
        (b'{"image": "%%%"}', JSON, 400, "image is not base64"),
        (b'{"text": "a word"}', JSON, 400, "takes an image file or {'image': base64}, got a text"),
        (b'{"picture": 1}', JSON, 400, "unknown field: 'picture'"),
        (b'{"inputs": [1, 2]}', JSON, 400, "data has 2"),
        (b'{"inputs": [1], "top_k": 0}', JSON, 400, "top_k must be an integer in 1..1000, got 0"),
        (b'{"inputs": [1], "top_k": true}', JSON, 400, "top_k must be an integer in 1..1000"),
    ],
)
def test_wrong_prediction_request_is_refused(
    served, body: bytes, headers: dict[str, str], status: int, expected: str
) -> None:
    answer = ask(f"{served.tiny}/predict", body, headers)
    assert answer.status == status
    assert expected in answer.error


def test_base64_with_data_prefix_is_refused(served) -> None:
    image = "data:image/png;base64," + base64.b64encode(png_claiming(8, 8)).decode()
    answer = ask(f"{served.tiny}/predict", json.dumps({"image": image}).encode(), JSON)
    assert answer.status == 400
    assert "data: prefix" in answer.error


@pytest.mark.parametrize("top_k", ["0", "1001", "many", "-3", "1e2", ""])
def test_top_k_out_of_range_is_refused(served, pngs: list[bytes], top_k: str) -> None:
    answer = ask(f"{served.tiny}/predict?top_k={top_k}", pngs[0], PNG)
    assert answer.status == 400
    assert answer.error.startswith("top_k: Input should be")


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        (
            "GET",
            "/models/nobody",
            404,
            "no model 'nobody' is served here; served: cut, doomed, either",
        ),
        ("POST", "/models/nobody/infer", 404, "no model 'nobody' is served here"),
        ("GET", "/models/tinyx/ready", 404, "no model 'tinyx' is served here"),
        ("GET", "/models/tiny/versions/9", 404, "model tiny has no version '9', only"),
        ("POST", "/models/tiny/versions/9/infer", 404, "model tiny has no version '9', only"),
        ("GET", "/models/tiny/nothing", 404, "see the paths in /v2/models/tiny/openapi.json"),
        ("GET", "/nothing", 404, "see the paths in /openapi.json"),
        ("GET", "/models/tiny/infer", 405, "use POST"),
        ("DELETE", "/models/tiny/predict", 405, "use POST"),
        ("POST", "/models/tiny/ready", 405, "use GET"),
        ("PUT", "/health/live", 405, "use GET"),
    ],
)
def test_wrong_path_or_method_is_refused(
    served, method: str, path: str, status: int, expected: str
) -> None:
    answer = ask(served.url + path, method=method)
    assert answer.status == status
    assert expected in answer.error
    if status == 405:
        assert answer.headers["allow"] == expected.removeprefix("use ")


def test_wrong_media_type_of_infer_is_refused(served) -> None:
    answer = ask(f"{served.tiny}/infer", b"x", PNG)
    assert answer.status == 415
    assert "send image files to /predict" in answer.error
    answer = ask(f"{served.tiny}/infer", b"x", {**JSON, "Content-Encoding": "br"})
    assert answer.status == 415
    assert "send the body as gzip or deflate" in answer.error


def test_bomb_is_refused_without_inflating(served) -> None:
    """A false size at its end: it inflates to one byte beyond the limit, 1 MiB."""
    bomb = gzip.compress(bytes(2**28))[:-4] + bytes(4)
    with served.memory("tight") as memory:
        for _ in range(4):
            answer = ask(f"{served.tight}/infer", bomb, {**JSON, "Content-Encoding": "gzip"})
            assert answer.status == 413
            assert f"exceeds {served.body_bytes} bytes after decompression" in answer.error
    assert memory.grown_bytes < 8 * served.body_bytes


@pytest.mark.parametrize("path", ["/v2/models/tiny/infer", "/v2"])
def test_header_without_utf8_is_refused(served, path: str) -> None:
    line = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Note: \xff\xfe\r\n\r\n".encode("latin-1")
    with Raw(served.port) as raw:
        raw.send(line)
        answer = raw.answer()
    assert answer.status == 400
    assert answer.error == "header 'x-note' is not valid UTF-8; send it as UTF-8 text"
