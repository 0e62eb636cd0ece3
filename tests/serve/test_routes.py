"""Routes over real models, called like models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from prometheus import labelled
from support.http_client import Answer, ask
from support.wait import until
from tritonclient.utils import InferenceServerException

from cluster.activation import probabilities
from cluster.program.program import Program, load
from cluster.routing.ensemble import mean, vote

CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # in a batch, the last bits differ


@pytest.fixture
def client(served) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(f"127.0.0.1:{served.port}", concurrency=8)
    yield client
    client.close()


@pytest.fixture(scope="module")
def exact(served) -> Program:
    """Program of the model `cut`, in this process."""
    return load(served.cut_artifact, compute_threads=1)


@pytest.fixture
def tiny(served) -> Any:
    """Probabilities of `tiny`, computed here."""
    return lambda array: probabilities(served.run(array), "softmax")


@pytest.fixture
def cut(exact: Program) -> Any:
    """Probabilities of `cut`, computed here."""
    return lambda array: probabilities(exact.run([array])[0], "softmax")


def infer(served, route: str, array: np.ndarray, **headers: str) -> Answer:
    body, length = served.binary(array)
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(f"{served.url}/models/{route}/infer", body, {**length, **extra})


def outputs(answer: Answer) -> dict[str, np.ndarray]:
    """Return the tensors of a binary answer."""
    assert answer.status == 200, answer
    length = int(answer.headers["inference-header-content-length"])
    offset, tensors = length, {}
    for spec in json.loads(answer.body[:length])["outputs"]:
        size = spec["parameters"]["binary_data_size"]
        data = np.frombuffer(answer.body[offset : offset + size], np.float32)
        tensors[spec["name"]] = data.reshape(spec["shape"])
        offset += size
    assert offset == len(answer.body)
    return tensors


def parameters(answer: Answer) -> dict[str, Any]:
    length = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.body[:length]).get("parameters", {})


def timing(answer: Answer) -> dict[str, float]:
    entries = answer.headers["server-timing"].split(", ")
    return {name: float(dur.removeprefix("dur=")) for name, dur in (e.split(";") for e in entries)}


def test_route_answers_triton_client_like_a_model(served, client, tiny, cut) -> None:
    assert client.is_model_ready("mean")
    metadata = client.get_model_metadata("mean")
    assert metadata["platform"] == "headrace_ensemble"
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    assert client.get_model_config("mean")["max_batch_size"] == 8
    array = served.random_input(3)
    tensor = triton.InferInput(served.input.name, list(array.shape), served.input.datatype)
    tensor.set_data_from_numpy(array)
    result = client.infer("mean", [tensor], request_id="r 1", model_version=metadata["versions"][0])
    expected = mean([tiny(array), cut(array)], [1, 3])
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, **CLOSE)
    assert result.get_response()["id"] == "r 1"
    with pytest.raises(InferenceServerException, match=r"\[404\] model mean has no version '9'"):
        client.infer("mean", [tensor], model_version="9")


def test_ensemble_votes_or_calls_a_function(served, tiny, cut, exact) -> None:
    array = served.random_input(4, seed=3)
    voted = outputs(infer(served, "vote", array))["probabilities"]
    votes = [tiny(array), cut(array), tiny(array)]
    np.testing.assert_allclose(voted, vote(votes, [1, 1, 1]), **CLOSE)
    joined = outputs(infer(served, "joined", array))["stacked"]
    expected = np.stack([served.run(array), 2 * exact.run([array])[0]], axis=1)
    np.testing.assert_allclose(joined, expected, rtol=1e-3, atol=1e-3)


def test_tasks_answer_by_name(served, exact) -> None:
    array = served.random_input(2)
    tensors = outputs(infer(served, "tasks", array))
    assert list(tensors) == ["fast.logits", "exact.logits"]
    np.testing.assert_allclose(tensors["fast.logits"], served.run(array), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(tensors["exact.logits"], exact.run([array])[0], rtol=1e-3, atol=1e-3)


def test_partial_answer_names_the_missing_branch(served, tiny) -> None:
    array = served.random_input(2)
    answer = infer(served, "patient", array)
    np.testing.assert_allclose(outputs(answer)["probabilities"], tiny(array), **CLOSE)
    details = parameters(answer)
    assert details["partial"] is True
    assert details["branch.tiny.outcome"] == "ok"
    assert details["branch.cut.outcome"] == "late"
    assert "no answer within" in details["branch.cut.reason"]
    assert details["branch.cut.ms"] >= 0
    # The protocol's parameters are flat.
    assert all(isinstance(value, str | int | float | bool) for value in details.values())

    some = infer(served, "some-tasks", array)
    assert list(outputs(some)) == ["fast.logits"]
    assert parameters(some)["branch.exact.outcome"] == "late"


def test_error_names_late_branch_without_min_answers(served) -> None:
    answer = infer(served, "strict", served.random_input(1))
    assert answer.status == 504
    assert answer.json["error"].startswith("too few answers: cut: no answer within")
    named = {branch["target"]: branch for branch in answer.json["branches"]}
    assert named["cut"]["outcome"] == "late"
    assert named["tiny"]["outcome"] in ("cancelled", "ok")
    assert named["cut"]["ms"] >= 0


def test_quorum_returns_the_first_answer(served, tiny, cut) -> None:
    array = served.random_input(1)
    answer = outputs(infer(served, "first", array))["probabilities"]
    distances = [np.abs(answer - expected).max() for expected in (tiny(array), cut(array))]
    assert min(distances) < 1e-3
    assert parameters(infer(served, "first", array)) == {}


@pytest.mark.parametrize("route", ["sure", "nested"])
def test_cascade_escalates_unsure_items_only(served, tiny, cut, route: str) -> None:
    many = served.random_input(200, seed=4)
    likeliest = np.concatenate([tiny(part).max(axis=1) for part in np.split(many, 25)])
    order = np.argsort(likeliest)
    # Alternately the most and the least confident: none so close that the last bits decide.
    chosen = [order[-4:], order[:4]]
    array = many[np.stack(chosen, axis=1).ravel()]
    small, large = tiny(array), cut(array)
    teacher = large if route == "sure" else mean([small, large], [1, 3])
    escalated = small.max(axis=1) < served.threshold
    assert escalated.tolist() == [False, True] * 4
    answer = infer(served, route, array)
    expected = np.where(escalated[:, None], teacher, small)
    np.testing.assert_allclose(outputs(answer)["probabilities"], expected, **CLOSE)
    details = parameters(answer)
    second = "cut" if route == "sure" else "mean"
    assert (details["answered_by.tiny"], details[f"answered_by.{second}"]) == (4, 4)


def test_cascade_without_teacher_is_partial_if_allowed(served, tiny) -> None:
    array = served.random_input(2)
    answer = infer(served, "unsure", array)
    np.testing.assert_allclose(outputs(answer)["probabilities"], tiny(array), **CLOSE)
    assert parameters(answer)["partial"] is True
    refused = infer(served, "must-be-sure", array)
    assert refused.status == 504
    assert [branch["outcome"] for branch in refused.json["branches"]] == ["ok", "late"]


def test_hedge_answers_once(served) -> None:
    answer = infer(served, "either", served.random_input(1))
    assert outputs(answer)["logits"].shape == (1, 10)
    assert parameters(answer)["hedged"] is True


def test_shadow_is_compared_in_the_background(served, tiny, cut) -> None:
    watched = f"{served.url}/shadow/watched"
    before = ask(watched).json
    arrays = [served.random_input(4, seed=seed) for seed in range(5)]
    for array in arrays:
        logits = outputs(infer(served, "watched", array))["logits"]
        np.testing.assert_allclose(logits, served.run(array), rtol=1e-3, atol=1e-3)
    until(lambda: ask(watched).json["requests"] >= before["requests"] + 5)
    after = ask(watched).json
    agree = [(tiny(a).argmax(axis=1) == cut(a).argmax(axis=1)).sum() for a in arrays]
    drift = [np.abs(tiny(a) - cut(a)).sum() / 2 for a in arrays]

    def added(share: str) -> float:
        """Return the contribution of these requests to a mean over all items."""
        return after[share] * after["items"] - (before[share] or 0) * before["items"]

    assert after["items"] - before["items"] == 20
    assert added("agreement") == pytest.approx(sum(agree))
    assert added("mean_drift") == pytest.approx(sum(drift), abs=0.02)
    assert after["live_p50_ms"] > 0
    assert "no shadow route 'mean'" in ask(f"{served.url}/shadow/mean").error


def test_canary_is_sticky_by_request_id(served, exact) -> None:
    array = served.random_input(1)
    body, headers = served.binary(array)
    answers = {}
    for number in range(40):
        identified = {**headers, "x-request-id": f"user-{number}"}
        for _ in range(2):
            logits = outputs(ask(f"{served.url}/models/half/infer", body, identified))["logits"]
            is_new = np.allclose(logits, exact.run([array])[0], rtol=1e-3, atol=1e-3)
            assert answers.setdefault(number, is_new) == is_new, "one id, two versions"
    assert 10 < sum(answers.values()) < 30


def test_failing_canary_returns_without_failed_requests(served) -> None:
    array = served.random_input(1)
    for _ in range(20):
        logits = outputs(infer(served, "doomed", array))["logits"]
        np.testing.assert_allclose(logits, served.run(array), rtol=1e-3, atol=1e-3)
    # After the verdict only the old version is called.
    phases = ["tiny.preprocess", "tiny.queue", "tiny.compute", "tiny.encode"]
    assert list(timing(infer(served, "doomed", array))) == ["ingress", "tiny", *phases, "total"]
    returned = labelled(
        served, {"route": "doomed"}, "ray_headrace_canary_returns_total", ("route",)
    )
    assert returned == {("doomed",): 1}


def test_large_batch_is_scattered_and_joined_in_order(served) -> None:
    array = served.random_input(50, seed=9)
    answer = infer(served, "spread", array)
    expected = np.concatenate([served.run(array[start : start + 8]) for start in range(0, 50, 8)])
    np.testing.assert_allclose(outputs(answer)["logits"], expected, rtol=1e-3, atol=1e-3)
    assert parameters(answer)["parts"] == 17
    refused = infer(served, "mean", array)
    assert refused.status == 400
    assert "holds 50 items, this route takes at most 8" in refused.error


def test_repeated_input_is_answered_from_the_cache(served) -> None:
    array = served.random_input(2, seed=77)
    first, again = infer(served, "kept", array), infer(served, "kept", array)
    assert parameters(again) == {"cached": True}
    np.testing.assert_array_equal(outputs(first)["logits"], outputs(again)["logits"])
    other = infer(served, "kept", array + 1)
    assert "cached" not in parameters(other)
    lookups = labelled(served, {"route": "kept"}, "ray_headrace_route_cache_total", ("found",))
    assert lookups[("hit",)] >= 1


def test_server_timing_shows_the_critical_path(served) -> None:
    spans = timing(infer(served, "mean", served.random_input(1)))
    assert {"ingress", "tiny", "tiny.queue", "tiny.compute", "cut", "combine", "total"} <= set(
        spans
    )
    assert spans["tiny.compute"] < spans["tiny"] < spans["total"]
    assert max(spans["tiny"], spans["cut"]) + spans["combine"] <= spans["total"] + 0.1
    stages = [spans[f"cut.compute.stage-{number}"] for number in (0, 1)]
    assert 0 < sum(stages) < spans["cut.compute"] < spans["cut"]
    model = timing(infer(served, "tiny", served.random_input(1)))
    assert list(model) == ["preprocess", "queue", "compute", "encode"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datatype": "INT8"}, "datatype must be 'FP32'"),
        ({"name": "pixels"}, "no input is named 'pixels'"),
        ({"shape": [1, 2]}, "shape must be"),
    ],
)
def test_route_refuses_wrong_tensor_like_a_model(served, change: Any, message: str) -> None:
    array = served.random_input(1)
    tensor = {"name": "input", "datatype": "FP32", "shape": list(array.shape), **change}
    body = json.dumps({"inputs": [{**tensor, "data": array.ravel().tolist()}]}).encode()
    answer = ask(f"{served.url}/models/mean/infer", body)
    assert answer.status == 400
    assert message in answer.error


def test_unknown_priorities_and_types_are_refused(served) -> None:
    array = served.random_input(1)
    for model in ("mean", "tiny"):
        answer = infer(served, model, array, x_priority="urgent")
        assert answer.status == 400
        assert "x-priority is 'urgent', expected interactive or batch" in answer.error
        assert infer(served, model, array, x_priority="batch").status == 200
        wrong = ask(f"{served.url}/models/{model}/infer", b"x", {"Content-Type": "image/png"})
        assert wrong.status == 415


@pytest.mark.parametrize("timeout", ["-1", "nan", "1e9", "0", "soon"])
def test_invalid_deadline_means_the_maximum(served, timeout: str) -> None:
    answer = infer(served, "mean", served.random_input(1), x_request_timeout_seconds=timeout)
    assert answer.status == 200


def test_route_is_late_at_an_impossible_deadline(served) -> None:
    answer = infer(served, "mean", served.random_input(1), x_request_timeout_seconds="0.0015")
    # 408: from the ingress guard, if even the router's 504 is late.
    assert answer.status in (504, 408)


def test_two_hundred_concurrent_requests_are_answered(served, tiny, cut) -> None:
    arrays = [served.random_input(1, seed=seed) for seed in range(200)]
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda array: infer(served, "mean", array), arrays))
    for array, answer in zip(arrays, answers, strict=True):
        expected = mean([tiny(array), cut(array)], [1, 3])
        np.testing.assert_allclose(outputs(answer)["probabilities"], expected, **CLOSE)


def test_metrics_count_by_route_branch_and_outcome(served) -> None:
    infer(served, "patient", served.random_input(1))
    requests = labelled(
        served, {"route": "patient"}, "ray_headrace_route_requests_total", ("outcome",)
    )
    assert requests[("partial",)] >= 1
    branches = labelled(
        served, {"route": "patient"}, "ray_headrace_branch_ms_count", ("branch", "outcome")
    )
    assert branches[("tiny", "ok")] >= 1
    assert branches[("cut", "late")] >= 1


def test_route_has_openapi_page(served) -> None:
    paths = ask(f"{served.url}/models/mean/openapi.json").json["paths"]
    assert any(re.fullmatch(r"(/v2/models/mean)?/infer", path) for path in paths)
    assert not any("predict" in path for path in paths)
