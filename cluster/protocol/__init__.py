"""Open Inference Protocol v2 over HTTP, server side: bytes in, arrays in the middle, bytes out.

    request body ──► infer.decode_infer ──► InferRequest.arrays ──► (the program) ──┐
                       │       │                                                    │
                  json_body    ├─ json_tensor    "data": [[1.5, ...]]               │
                   (size)      └─ binary_tensor  bytes after the JSON, zero-copy    │
                                                                                    ▼
    answer body, headers ◄─────────────────── answer.encode_infer ◄──────────── arrays

    {"image"|"text"|"inputs"} ──► predict.decode_predict ──► ... ──► predict.top_k ──► labels
    GET /v2, GET /v2/models/NAME ──► metadata

Everything here is a pure function of bytes and numpy arrays: no HTTP framework, no Ray, no
PyTorch. What a client got wrong raises RequestError (400) or PayloadTooLargeError (413), with
what was given and what was expected in the message.

Protocol: https://github.com/kserve/open-inference-protocol, and its binary tensor data
extension as Triton and KServe speak it, raw binary requests included.
"""
