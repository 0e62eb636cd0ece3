"""POST /predict: image files with curl, handwritten JSON, and its OpenAPI page."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import requests
from support.http_client import ask

from cluster.preprocess import decode_image, image_tensor

PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}


def logits_of(served, png: bytes) -> np.ndarray:
    image = decode_image(png, max_pixels=10**6)
    return served.run(image_tensor(image, served.artifact.manifest.image)[None])[0]


def test_curl_sends_an_image_file(served, pngs: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(pngs[0])
    command = ["curl", "--silent", "--show-error", "--data-binary", "@digit.png"]
    command += ["-H", "Content-Type: image/png", f"{served.tiny}/predict?top_k=3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=30)
    answer = json.loads(done.stdout)
    assert answer["model_name"] == "tiny"
    logits = logits_of(served, pngs[0]).astype(np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum()
    best = np.argsort(-softmax)[:3]
    labels = served.artifact.manifest.labels
    assert [guess["label"] for guess in answer["predictions"]] == [labels[i] for i in best]
    np.testing.assert_allclose(
        [guess["probability"] for guess in answer["predictions"]], softmax[best], rtol=1e-9
    )


def test_every_form_of_an_image_gets_the_same_answer(served, pngs: list[bytes]) -> None:
    url = f"{served.tiny}/predict"
    expected = ask(url, pngs[3], PNG).json
    assert len(expected["predictions"]) == 5
    image = decode_image(pngs[3], max_pixels=10**6)
    item = image_tensor(image, served.artifact.manifest.image)
    encoded = base64.b64encode(pngs[3]).decode()
    for body in ({"image": encoded}, {"inputs": item.tolist()}):
        answer = ask(url, json.dumps(body).encode(), JSON)
        assert answer.json == expected
    versioned = ask(f"{served.tiny}/versions/{served.version}/predict", pngs[3], PNG)
    assert versioned.json == expected


@pytest.mark.parametrize(
    "kind", ["image/jpeg", "image/jpg", "IMAGE/JPG", "image/pjpeg", "image/png; q=1"]
)
def test_file_decides_its_format_whatever_its_type(served, pngs: list[bytes], kind: str) -> None:
    file = BytesIO()
    decode_image(pngs[5], max_pixels=10**6).save(file, "JPEG", quality=95)
    answer = ask(f"{served.tiny}/predict", file.getvalue(), {"Content-Type": kind})
    assert answer.status == 200, answer
    best = logits_of(served, file.getvalue()).argmax()
    assert answer.json["predictions"][0]["label"] == served.artifact.manifest.labels[best]


def test_forms_get_the_answer_of_the_file(served, pngs: list[bytes], tmp_path: Path) -> None:
    url = f"{served.tiny}/predict"
    expected = ask(url + "?top_k=2", pngs[3], PNG).json
    (tmp_path / "digit.png").write_bytes(pngs[3])
    command = ["curl", "--silent", "--show-error", "-F", "image=@digit.png", "-F", "top_k=2", url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=30)
    assert json.loads(done.stdout) == expected
    files = {"file": ("ü.png", pngs[3], "application/octet-stream")}
    assert requests.post(url, files=files, data={"top_k": 2}, timeout=30).json() == expected
    # A proxy or client may compress the form as any other body.
    form = requests.Request("POST", url, files=files, data={"top_k": 2}).prepare()
    headers = {"Content-Type": form.headers["Content-Type"], "Content-Encoding": "gzip"}
    assert ask(url, gzip.compress(form.body), headers).json == expected


def test_page_of_named_origin_sends_a_form(served, pngs: list[bytes]) -> None:
    """As a browser does: a preflight where it needs one, then the request with its origin."""
    page = {"Origin": "https://app.example"}
    wanted = {"Access-Control-Request-Method": "POST"}
    for url in (
        f"{served.tiny}/predict",
        f"{served.url}/models/mean/infer",
        f"{served.url}/models",
    ):
        preflight = ask(url, headers={**page, **wanted}, method="OPTIONS")
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == page["Origin"]
    form = requests.Request("POST", "http://x", files={"file": pngs[0]}).prepare()
    headers = {"Content-Type": form.headers["Content-Type"]}
    for origin, allowed in ((page, True), ({"Origin": "https://evil.example"}, False)):
        answer = ask(f"{served.tiny}/predict", form.body, {**headers, **origin})
        assert answer.status == 200
        assert ("access-control-allow-origin" in answer.headers) == allowed
    assert "access-control-allow-origin" not in ask(f"{served.tight}", headers=page).headers


def test_form_that_is_cut_off_is_refused(served, pngs: list[bytes]) -> None:
    form = requests.Request("POST", "http://x", files={"file": pngs[0]}).prepare()
    headers = {"Content-Type": form.headers["Content-Type"]}
    answer = ask(f"{served.tiny}/predict", form.body[:-20], headers)
    assert answer.status == 400
    assert "lacks its last boundary" in answer.error


def test_top_k_of_the_url_applies_to_json(served, pngs: list[bytes]) -> None:
    encoded = base64.b64encode(pngs[0]).decode()
    body = json.dumps({"image": encoded, "top_k": 2}).encode()
    assert len(ask(f"{served.tiny}/predict", body, JSON).json["predictions"]) == 2
    assert len(ask(f"{served.tiny}/predict?top_k=1", body, JSON).json["predictions"]) == 1


def test_served_accuracy_equals_that_of_the_program(served, held_out, pngs: list[bytes]) -> None:
    labels = served.artifact.manifest.labels
    truth = [labels[label] for label in held_out.labels]
    # The same images in this process and as served, one by one.
    here = [labels[int(logits_of(served, png).argmax())] for png in pngs]
    there = [
        ask(f"{served.tiny}/predict?top_k=1", png, PNG).json["predictions"][0]["label"]
        for png in pngs
    ]
    assert there == here
    right = sum(guess == label for guess, label in zip(there, truth, strict=True))
    measured = served.artifact.manifest.winner("cpu-x86")
    assert right / len(truth) == measured.accuracy


def test_openapi_page_describes_every_path(served) -> None:
    page = ask(f"{served.tiny}/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert b"'/v2/models/tiny/openapi.json'" in page.body
    document = ask(f"{served.tiny}/openapi.json").json
    assert document["servers"] == [{"url": "/v2/models/tiny"}]
    for path, method in (("/infer", "post"), ("/predict", "post"), ("/ready", "get"), ("/", "get")):
        described = document["paths"][path][method]
        # Every error is one JSON object; FastAPI's 422 never occurs.
        assert "422" not in described["responses"]
        assert described["responses"]["4XX"]["content"]["application/json"]["schema"]["required"]
    assert "/versions/{version}/infer" in document["paths"]
    server = ask(f"{served.cluster.http}/openapi.json").json
    assert "servers" not in server  # it is at the root
    assert {"/v2/models", "/v2/health/live", "/v2/shadow/{name}"} <= set(server["paths"])
