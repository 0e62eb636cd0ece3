"""Fuzz target for atheris: bodies of /infer, guided by the parser's coverage.

    python fuzzed_infer.py CORPUS -runs=N -max_total_time=S      (options of libFuzzer)

    input  [ 2 bytes: length of the JSON, 0xFFFF for none ][ body ]

The parser refuses by RequestError; any other error ends the run and saves the input.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cluster.protocol"]):
    from cluster.protocol import infer
from cluster.errors import RequestError
from cluster.tensors import TensorSpec

INPUTS = (
    TensorSpec(name="a", datatype="FP32", shape=(-1, 2)),
    TensorSpec(name="b", datatype="BOOL", shape=(-1, 3)),
    TensorSpec(name="c", datatype="INT64", shape=(-1,)),
)
OUTPUTS = (TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),)
ONE = INPUTS[:1]
NO_LENGTH = 0xFFFF
MAX_TEXTS = 4
MEMORY_BYTES = 2 * 2**30


def one_input(data: bytes) -> None:
    """Decode one body, for models with three inputs, with one, and of texts."""
    length, body = int.from_bytes(data[:2], "big"), data[2:]
    for inputs in (INPUTS, ONE):
        try:
            request = infer.decode_infer(
                body, None if length == NO_LENGTH else length, inputs, OUTPUTS, 1 << 16
            )
        except RequestError:
            continue
        if request.texts:
            raise AssertionError("this model takes no texts")
        for spec, array in zip(inputs, request.arrays, strict=True):
            if array.dtype != spec.dtype or array.shape != (request.batch, *spec.item_shape):
                raise AssertionError(f"{spec.name}: {array.dtype} {array.shape}")
            array.sum()  # reads every byte
    with contextlib.suppress(RequestError):
        request = infer.decode_infer(
            body, None if length == NO_LENGTH else length, ONE, OUTPUTS, 1 << 16, MAX_TEXTS
        )
        if len(request.texts) > MAX_TEXTS or (request.texts and request.arrays):
            raise AssertionError(f"{len(request.texts)} texts, {len(request.arrays)} arrays")


def seeds() -> list[bytes]:
    """Return correct requests as the initial corpus."""
    binary = (
        b'{"inputs":[{"name":"a","datatype":"FP32","shape":[1,2],'
        b'"parameters":{"binary_data_size":8}},{"name":"b","datatype":"BOOL","shape":[1,3],'
        b'"parameters":{"binary_data_size":3}},{"name":"c","datatype":"INT64","shape":[1],'
        b'"parameters":{"binary_data_size":8}}],"outputs":[{"name":"y",'
        b'"parameters":{"binary_data":true}}]}'
    )
    json = b'{"id":"1","inputs":[{"name":"a","datatype":"FP32","shape":[1,2],"data":[1,2.5e-3]}]}'
    texts = (
        b'{"inputs":[{"name":"t","datatype":"BYTES","shape":[2,1],'
        b'"parameters":{"binary_data_size":10}}],'
        b'"outputs":[{"name":"y","parameters":{"classification":1}}]}'
    )
    return [
        len(binary).to_bytes(2, "big") + binary + bytes(19),
        len(texts).to_bytes(2, "big") + texts + b"\1\0\0\0a\1\0\0\0b",
        NO_LENGTH.to_bytes(2, "big") + json,
        bytes(2) + bytes(16),
    ]


def main() -> None:
    """Write the initial corpus and fuzz.

    libFuzzer ends the process, with a nonzero status after a finding. An allocation of gigabytes is
    one: it raises MemoryError.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    corpus = Path(sys.argv[1])
    for number, seed in enumerate(seeds()):
        one_input(seed)
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
