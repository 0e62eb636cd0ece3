"""Concurrent requests share batches; a bad one affects no other."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from prometheus import requests, wait_for
from support.http_client import Answer, ask


def test_concurrent_requests_share_batches_with_bad_ones(served) -> None:
    arrays = [served.random_input(1, seed=seed) for seed in range(200)]
    bodies = [served.binary(array) for array in arrays]
    for index in range(0, len(bodies), 4):  # every fourth is cut short
        body, headers = bodies[index]
        bodies[index] = (body[:-4], headers)

    def send(request: tuple[bytes, dict[str, str]]) -> Answer:
        return ask(f"{served.tiny}/infer", *request)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, bodies))
    for index, (array, answer) in enumerate(zip(arrays, answers, strict=True)):
        if index % 4 == 0:
            assert answer.status == 400
            assert "bytes are left after the JSON" in answer.error
        else:
            np.testing.assert_allclose(
                served.logits(answer), served.run(array), rtol=1e-4, atol=1e-4
            )
    metrics = wait_for(served, lambda m: requests(m, "ok") >= 150 and requests(m, "rejected") >= 50)
    batches = metrics["ray_headrace_batch_size_bucket", "+Inf"]
    assert metrics["ray_headrace_batch_size_bucket", "1.0"] < batches
    assert metrics["ray_headrace_batch_size_bucket", "8.0"] == batches
    assert requests(metrics, "ok") - batches > 20  # a batch counts once


def test_requests_over_replica_capacity_are_queued(served) -> None:
    array = served.random_input(1)
    request = served.binary(array)
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: ask(f"{served.tiny}/infer", *request), range(100)))
    assert Counter(answer.status for answer in answers) == {200: 100}
