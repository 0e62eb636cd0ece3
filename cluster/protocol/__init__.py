"""Open Inference Protocol v2 over HTTP: codec between bytes and numpy arrays.

    request body ──► infer.decode_infer ──► InferRequest.arrays ──► (the program) ──┐
                       │       │                                                    │
                  json_body    ├─ json_tensor    "data": [[1.5, ...]]               │
                   (size)      ├─ binary_tensor  bytes after the JSON, zero-copy    │
                               └─ bytes_tensor   texts for a text model             │
                                                                                    ▼
    answer body, headers ◄─────────────────── answer.encode_infer ◄──────────── arrays

    {"image"|"text"|"inputs"} ──► predict.decode_predict ──► ... ──► predict.top_k ──► labels
    multipart/form-data ──► form ──► predict.decode_form     gzip, deflate ──► compression
    GET /v2, GET /v2/models/NAME ──► metadata, statistics    requests to other servers ──► client

All functions are pure, over bytes and numpy arrays: no HTTP framework, no Ray, no PyTorch. A
client's mistake raises RequestError (400) or PayloadTooLargeError (413), with the given and the
expected value in the message.

Protocol: https://github.com/kserve/open-inference-protocol, and its binary tensor data
extension as in Triton and KServe, including raw binary requests.
"""
