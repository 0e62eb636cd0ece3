"""Hostile JSON: bounded memory and time within the size limit."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.config.serving import Limits
from cluster.errors import RequestError
from cluster.protocol.infer import decode_infer
from cluster.tensors import TensorSpec

SIZE = Limits().json_bytes
X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))


def filled(start: bytes, item: bytes, end: bytes) -> bytes:
    """Return as many items as the limit permits."""
    return start + item * ((SIZE - len(start) - len(end)) // len(item)) + end


def ragged(rows: int) -> bytes:
    start = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[%d,2],"data":[' % rows
    return start + b"[]," * (rows - 1) + b"[]]}]}"


HOSTILE = {
    "brackets": filled(b"", b"[", b""),
    "brackets and quotes": filled(b"", b'["', b""),
    "quotes": filled(b"", b'"', b""),
    "backslashes": filled(b'{"a":"', b"\\", b""),
    "objects": filled(b'{"inputs":[', b"{},", b"{}]}"),
    "objects in objects": filled(b'{"inputs":[', b'{"":{}},', b"{}]}"),
    "arrays in arrays": filled(b'{"inputs":[', b"[[[[]]]],", b"1]}"),
    "keys": b"{" + b",".join(b'"%x":1' % n for n in range(SIZE // 10)) + b"}",
    "ragged data": ragged(SIZE // 3 - 40),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_body_uses_little_memory_and_time(name: str) -> None:
    assert 0.85 * SIZE < len(HOSTILE[name]) <= SIZE
    # In a separate process: the parser's memory shows only in the peak of a whole process.
    process = subprocess.run(
        [sys.executable, __file__, name], capture_output=True, text=True, check=True, timeout=60
    )
    grown_bytes, cpu_s = map(float, process.stdout.split())
    assert grown_bytes < 50 * SIZE
    assert cpu_s < 3  # far below a multiple of the size


def _kib(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


if __name__ == "__main__":
    body = HOSTILE[sys.argv[1]]
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to the current size
    before, started = _kib("VmRSS"), time.process_time()
    try:
        decode_infer(body, None, [X], [X], SIZE)
    except RequestError:
        print((_kib("VmHWM") - before) * 1024, time.process_time() - started)
