"""Forms as browsers, curl and Python's clients send them, and malformed ones."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RequestError
from cluster.protocol.form import MAX_FIELDS, FormField, parse_form
from cluster.protocol.predict import DEFAULT_TOP_K, decode_form

PNG = b"\x89PNG\r\n\x1a\n--\r\n\r\n-x--\r\n\0\xff"
TYPE = "multipart/form-data; boundary=x"


def form(*fields: tuple[str, bytes], boundary: str = "x") -> bytes:
    """Return a form of Content-Disposition parameters and contents, as a browser sends it."""
    parts = [
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode()
        + content
        + b"\r\n"
        for head, content in fields
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def test_form_of_requests_is_parsed() -> None:
    request = requests.Request(
        "POST",
        "http://x",
        files={"photo": ('ä "1".png', PNG, "image/png"), "note": (None, "größer")},
        data={"top_k": 3},
    ).prepare()
    assert isinstance(request.body, bytes)
    assert parse_form(request.body, request.headers["Content-Type"]) == [
        FormField("top_k", False, b"3"),
        FormField("photo", True, PNG),
        FormField("note", False, "größer".encode()),
    ]


def test_form_of_curl_is_parsed(tmp_path: Path) -> None:
    received: list[tuple[bytes, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((body, self.headers["content-type"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    (tmp_path / "a.png").write_bytes(PNG)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        command = ["curl", "--silent", "--fail", "-F", "image=@a.png", "-F", "top_k=2", url]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=30)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    fields = [FormField("image", True, PNG), FormField("top_k", False, b"2")]
    assert parse_form(*received[0]) == fields


def test_form_of_browser_is_parsed() -> None:
    """The bytes that Chromium and Firefox send for a file and a text (HTML, RFC 7578)."""
    boundary = "----WebKitFormBoundaryABCDEF0123456789"
    head = 'name="image"; filename="%22ü%22.png"\r\nContent-Type: image/png'
    body = form((head, PNG), ('name="text"', b""), boundary=boundary)
    fields = parse_form(body, f"multipart/form-data; boundary={boundary}")
    assert fields == [FormField("image", True, PNG), FormField("text", False, b"")]


@pytest.mark.parametrize(
    "parameter",
    ["filename*=undefined''x", "filename*=idna''x", "filename*=a\0b''x", f"x*{'9' * 4000}=a"],
)
def test_encoded_names_are_never_decoded(parameter: str) -> None:
    """RFC 7578, 4.2 forbids them; Python's own parser raises UnicodeError and ValueError."""
    is_file = parameter.startswith("filename")
    fields = parse_form(form((f"name=a; {parameter}", b"1")), f"{TYPE}; x*{'9' * 5000}=a")
    assert fields == [FormField("a", is_file, b"1")]


def test_quoted_name_may_have_separators() -> None:
    fields = parse_form(form((r'name="a;b=\"c\""; FileName="d;name=e"', b"1")), TYPE)
    assert fields == [FormField('a;b="c"', True, b"1")]


@given(st.lists(st.binary(max_size=50), max_size=4), st.booleans())
def test_contents_are_returned_as_they_are(contents: list[bytes], quoted: bool) -> None:
    boundary = "a b?" if quoted else "ab"
    body = form(*((f'name="f{n}"', c) for n, c in enumerate(contents)), boundary=boundary)
    fields = parse_form(b"preamble\r\n" + body, f'multipart/form-data; boundary="{boundary}"')
    assert [field.content for field in fields] == contents


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (form(), "multipart/form-data", "a form needs a boundary"),
        (form(), "multipart/form-data; boundary=", "a form needs a boundary"),
        (form(), f"multipart/form-data; boundary={'x' * 71}", "of 1 to 70 ASCII characters"),
        (b"", TYPE, "the form of 0 bytes lacks its last boundary"),
        (form(("name=a", b"1")), "multipart/form-data; boundary=y", "lacks its last boundary"),
        (form(("name=a", b"1"))[:-5], TYPE, "lacks its last boundary"),
        (b"--x\r\n1\r\n--x--", TYPE, "no blank line"),
        (b"--x\r\nX: " + b"y" * 5000 + b"\r\n\r\n1\r\n--x--", TYPE, "no blank line within 4096"),
        (b"--x\r\n\r\n1\r\n--x--", TYPE, "has no name"),
        (form(("filename=a", b"1")), TYPE, "has no name"),
        (form(*[("name=a", b"1")] * (MAX_FIELDS + 1)), TYPE, "more than 16 fields"),
    ],
)
def test_malformed_form_is_refused(body: bytes, content_type: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_form(body, content_type)


@given(st.lists(st.sampled_from([b"--x", b"\r\n", b"--", b"name=a", b":", b";", b"\xff"])))
def test_any_other_bytes_are_fields_or_refused(pieces: list[bytes]) -> None:
    with contextlib.suppress(RequestError):
        fields = parse_form(b"--x" + b"".join(pieces), TYPE)
        assert all(field.name == "a" for field in fields)


def test_hostile_form_takes_linear_time() -> None:
    body = b"--x" + b"\r\n--" * 2**20 + b"\r\n" * 2**20
    started = time.process_time()
    with pytest.raises(RequestError):
        parse_form(body, TYPE)
    assert time.process_time() - started < 1


# ------------------------------------------------------------------ the fields of /predict


def test_file_of_any_name_is_the_image() -> None:
    for head in ('name="photo"; filename="a.png"', 'name="image"', 'name="file"'):
        request = decode_form(form((head, PNG)), TYPE)
        assert (request.image, request.text, request.top_k) == (PNG, None, DEFAULT_TOP_K)


def test_text_and_top_k_are_fields() -> None:
    request = decode_form(form(("name=text", "zürich".encode()), ("name=top_k", b" 7 ")), TYPE)
    assert (request.image, request.text, request.top_k) == (None, "zürich", 7)


@pytest.mark.parametrize(
    ("image", "text"), [(PNG, b""), (b"", b"good film")], ids=["without a text", "without a file"]
)
def test_fields_left_empty_are_ignored(image: bytes, text: bytes) -> None:
    """A browser sends every field of a form, and a file that was not chosen with an empty name."""
    name = 'name="image"; filename="' + ('a.png"' if image else '"')
    body = form((name, image), ('name="text"', text), ('name="top_k"', b""))
    request = decode_form(body, TYPE)
    assert (request.image or b"", (request.text or "").encode()) == (image, text)
    assert request.top_k == DEFAULT_TOP_K


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "the form holds 0 files and 0 texts; send one of either"),
        ([("name=file", PNG)] * 2, "the form holds 2 files and 0 texts"),
        ([("name=file", PNG), ("name=text", b"a")], "the form holds 1 files and 1 texts"),
        ([("name=file; filename=", b"")], "the file of the form is empty; choose an image file"),
        ([("name=inputs", b"[1]")], "unknown field of the form: 'inputs'; known: a file, text"),
        ([("name=text", b"\xff")], "text of the form is not UTF-8"),
        ([("name=file", PNG), ("name=top_k", b"0")], "top_k must be an integer in 1..1000, got 0"),
        ([("name=file", PNG), ("name=top_k", b"1.0")], "top_k must be an integer in"),
        ([("name=file", PNG), ("name=top_k", b"9" * 5000)], "top_k must be an integer"),
    ],
)
def test_wrong_fields_are_refused(fields: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        decode_form(form(*fields), TYPE)
    assert len(json.dumps(str(caught.value))) < 300
