"""Routes over real models, asked as any client asks a model."""

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

from cluster.program.program import Program, load
from cluster.routing.ensemble import mean, probabilities, vote

CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # a row computed beside others ends in other last bits


@pytest.fixture
def client(served) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(f"127.0.0.1:{served.port}", concurrency=8)
    yield client
    client.close()


@pytest.fixture(scope="module")
def exact(served) -> Program:
    """What the model `cut` computes, in this process."""
    return load(served.cut_artifact, compute_threads=1)


@pytest.fixture
def tiny(served) -> Any:
    """Probabilities of `tiny`, computed here."""
    return lambda array: probabilities(served.run(array))


@pytest.fixture
def cut(exact: Program) -> Any:
    """Probabilities of `cut`, computed here."""
    return lambda array: probabilities(exact.run([array])[0])


def infer(served, route: str, array: np.ndarray, **headers: str) -> Answer:
    body, length = served.binary(array)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(f"{served.url}/models/{route}/infer", body, {**length, **given})


def outputs(answer: Answer) -> dict[str, np.ndarray]:
    """The tensors of a binary answer."""
    assert answer.status == 200, answer
    length = int(answer.headers["inference-header-content-length"])
    offset, found = length, {}
    for each in json.loads(answer.body[:length])["outputs"]:
        size = each["parameters"]["binary_data_size"]
        data = np.frombuffer(answer.body[offset : offset + size], np.float32)
        found[each["name"]] = data.reshape(each["shape"])
        offset += size
    assert offset == len(answer.body)
    return found


def parameters(answer: Answer) -> dict[str, Any]:
    length = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.body[:length]).get("parameters", {})


def timing(answer: Answer) -> dict[str, float]:
    entries = answer.headers["server-timing"].split(", ")
    return {name: float(dur.removeprefix("dur=")) for name, dur in (e.split(";") for e in entries)}


def test_a_route_is_a_model_to_tritons_client(served, client, tiny, cut) -> None:
    assert client.is_model_ready("mean")
    metadata = client.get_model_metadata("mean")
    assert metadata["platform"] == "headrace_ensemble"
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    assert client.get_model_config("mean")["max_batch_size"] == 8
    array = served.random_input(3)
    given = triton.InferInput(served.input.name, list(array.shape), served.input.datatype)
    given.set_data_from_numpy(array)
    result = client.infer("mean", [given], request_id="r 1", model_version=metadata["versions"][0])
    wanted = mean([tiny(array), cut(array)], [1, 3])
    np.testing.assert_allclose(result.as_numpy("probabilities"), wanted, **CLOSE)
    assert result.get_response()["id"] == "r 1"
    with pytest.raises(InferenceServerException, match=r"\[404\] model mean has no version '9'"):
        client.infer("mean", [given], model_version="9")


def test_an_ensemble_votes_or_calls_a_function(served, tiny, cut, exact) -> None:
    array = served.random_input(4, seed=3)
    voted = outputs(infer(served, "vote", array))["probabilities"]
    votes = [tiny(array), cut(array), tiny(array)]
    np.testing.assert_allclose(voted, vote(votes, [1, 1, 1]), **CLOSE)
    joined = outputs(infer(served, "joined", array))["stacked"]
    wanted = np.stack([served.run(array), 2 * exact.run([array])[0]], axis=1)
    np.testing.assert_allclose(joined, wanted, rtol=1e-3, atol=1e-3)


def test_tasks_answer_by_name(served, exact) -> None:
    array = served.random_input(2)
    found = outputs(infer(served, "tasks", array))
    assert list(found) == ["fast.logits", "exact.logits"]
    np.testing.assert_allclose(found["fast.logits"], served.run(array), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["exact.logits"], exact.run([array])[0], rtol=1e-3, atol=1e-3)


def test_a_partial_answer_says_who_is_missing(served, tiny) -> None:
    array = served.random_input(2)
    answer = infer(served, "patient", array)
    np.testing.assert_allclose(outputs(answer)["probabilities"], tiny(array), **CLOSE)
    said = parameters(answer)
    assert said["partial"] is True
    assert said["branch.tiny.outcome"] == "ok"
    assert said["branch.cut.outcome"] == "late"
    assert "no answer within" in said["branch.cut.reason"]
    assert said["branch.cut.ms"] >= 0
    # The protocol's parameters are flat.
    assert all(isinstance(value, str | int | float | bool) for value in said.values())

    some = infer(served, "some-tasks", array)
    assert list(outputs(some)) == ["fast.logits"]
    assert parameters(some)["branch.exact.outcome"] == "late"


def test_where_no_partial_answer_is_allowed_the_detail_comes_with_the_error(served) -> None:
    answer = infer(served, "strict", served.random_input(1))
    assert answer.status == 504
    assert answer.json["error"].startswith("too few answers: cut: no answer within")
    named = {branch["target"]: branch for branch in answer.json["branches"]}
    assert named["cut"]["outcome"] == "late"
    assert named["tiny"]["outcome"] in ("cancelled", "ok")
    assert named["cut"]["ms"] >= 0


def test_a_quorum_takes_the_first(served, tiny, cut) -> None:
    array = served.random_input(1)
    found = outputs(infer(served, "first", array))["probabilities"]
    distances = [np.abs(found - wanted).max() for wanted in (tiny(array), cut(array))]
    assert min(distances) < 1e-3
    assert parameters(infer(served, "first", array)) == {}


@pytest.mark.parametrize("route", ["sure", "nested"])
def test_a_cascade_asks_on_item_by_item(served, tiny, cut, route: str) -> None:
    many = served.random_input(200, seed=4)
    likeliest = np.concatenate([tiny(part).max(axis=1) for part in np.split(many, 25)])
    order = np.argsort(likeliest)
    # The surest and the least sure, in turn: none so near that the last bits decide.
    chosen = [order[-4:], order[:4]]
    array = many[np.stack(chosen, axis=1).ravel()]
    small, large = tiny(array), cut(array)
    teacher = large if route == "sure" else mean([small, large], [1, 3])
    goes_on = small.max(axis=1) < served.threshold
    assert goes_on.tolist() == [False, True] * 4
    answer = infer(served, route, array)
    wanted = np.where(goes_on[:, None], teacher, small)
    np.testing.assert_allclose(outputs(answer)["probabilities"], wanted, **CLOSE)
    said = parameters(answer)
    second = "cut" if route == "sure" else "mean"
    assert (said["answered_by.tiny"], said[f"answered_by.{second}"]) == (4, 4)


def test_a_cascade_without_its_teacher_is_partial_where_that_is_allowed(served, tiny) -> None:
    array = served.random_input(2)
    answer = infer(served, "unsure", array)
    np.testing.assert_allclose(outputs(answer)["probabilities"], tiny(array), **CLOSE)
    assert parameters(answer)["partial"] is True
    refused = infer(served, "must-be-sure", array)
    assert refused.status == 504
    assert [branch["outcome"] for branch in refused.json["branches"]] == ["ok", "late"]


def test_a_hedge_answers_once(served) -> None:
    found = infer(served, "either", served.random_input(1))
    assert outputs(found)["logits"].shape == (1, 10)
    assert parameters(found)["hedged"] is True


def test_a_shadow_is_compared_and_nobody_waits_for_it(served, tiny, cut) -> None:
    watched = f"{served.url}/shadow/watched"
    before = ask(watched).json
    arrays = [served.random_input(4, seed=seed) for seed in range(5)]
    for array in arrays:
        found = outputs(infer(served, "watched", array))["logits"]
        np.testing.assert_allclose(found, served.run(array), rtol=1e-3, atol=1e-3)
    until(lambda: ask(watched).json["requests"] >= before["requests"] + 5)
    seen = ask(watched).json
    agree = [(tiny(a).argmax(axis=1) == cut(a).argmax(axis=1)).sum() for a in arrays]
    drift = [np.abs(tiny(a) - cut(a)).sum() / 2 for a in arrays]

    def added(share: str) -> float:
        """What these requests have added to a mean over all items so far."""
        return seen[share] * seen["items"] - (before[share] or 0) * before["items"]

    assert seen["items"] - before["items"] == 20
    assert added("agreement") == pytest.approx(sum(agree))
    assert added("mean_drift") == pytest.approx(sum(drift), abs=0.02)
    assert seen["live_p50_ms"] > 0
    assert "no shadow route 'mean'" in ask(f"{served.url}/shadow/mean").error


def test_a_canary_is_sticky_and_shared(served, exact) -> None:
    array = served.random_input(1)
    body, headers = served.binary(array)
    answers = {}
    for number in range(40):
        given = {**headers, "x-request-id": f"user-{number}"}
        for _ in range(2):
            found = outputs(ask(f"{served.url}/models/half/infer", body, given))["logits"]
            is_new = np.allclose(found, exact.run([array])[0], rtol=1e-3, atol=1e-3)
            assert answers.setdefault(number, is_new) == is_new, "one id, two versions"
    assert 10 < sum(answers.values()) < 30


def test_a_failing_canary_returns_to_the_old_version_and_harms_nobody(served) -> None:
    array = served.random_input(1)
    for _ in range(20):
        found = outputs(infer(served, "doomed", array))["logits"]
        np.testing.assert_allclose(found, served.run(array), rtol=1e-3, atol=1e-3)
    # After the verdict only the old version is asked.
    assert list(timing(infer(served, "doomed", array))) == [
        "ingress", "tiny", "tiny.preprocess", "tiny.queue", "tiny.compute", "tiny.encode", "total",
    ]  # fmt: skip
    returned = labelled(
        served, {"route": "doomed"}, "ray_headrace_canary_returns_total", ("route",)
    )
    assert returned == {("doomed",): 1}


def test_a_large_batch_is_scattered_and_joined_in_order(served) -> None:
    array = served.random_input(50, seed=9)
    answer = infer(served, "spread", array)
    wanted = np.concatenate([served.run(array[start : start + 8]) for start in range(0, 50, 8)])
    np.testing.assert_allclose(outputs(answer)["logits"], wanted, rtol=1e-3, atol=1e-3)
    assert parameters(answer)["parts"] == 17
    refused = infer(served, "mean", array)
    assert refused.status == 400
    assert "holds 50 items, this route takes at most 8" in refused.error


def test_the_same_input_again_is_answered_from_the_cache(served) -> None:
    array = served.random_input(2, seed=77)
    first, again = infer(served, "kept", array), infer(served, "kept", array)
    assert parameters(again) == {"cached": True}
    np.testing.assert_array_equal(outputs(first)["logits"], outputs(again)["logits"])
    other = infer(served, "kept", array + 1)
    assert "cached" not in parameters(other)
    found = labelled(served, {"route": "kept"}, "ray_headrace_route_cache_total", ("found",))
    assert found[("hit",)] >= 1


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
    ("change", "said"),
    [
        ({"datatype": "INT8"}, "datatype must be 'FP32'"),
        ({"name": "pixels"}, "no input is named 'pixels'"),
        ({"shape": [1, 2]}, "shape must be"),
    ],
)
def test_a_wrong_tensor_is_refused_as_a_model_would(served, change: Any, said: str) -> None:
    array = served.random_input(1)
    given = {"name": "input", "datatype": "FP32", "shape": list(array.shape), **change}
    body = json.dumps({"inputs": [{**given, "data": array.ravel().tolist()}]}).encode()
    answer = ask(f"{served.url}/models/mean/infer", body)
    assert answer.status == 400
    assert said in answer.error


def test_unknown_priorities_and_types_are_refused(served) -> None:
    array = served.random_input(1)
    for model in ("mean", "tiny"):
        answer = infer(served, model, array, x_priority="urgent")
        assert answer.status == 400
        assert "x-priority is 'urgent', expected interactive or batch" in answer.error
        assert infer(served, model, array, x_priority="batch").status == 200
        wrong = ask(f"{served.url}/models/{model}/infer", b"x", {"Content-Type": "image/png"})
        assert wrong.status == 415


@pytest.mark.parametrize("asked", ["-1", "nan", "1e9", "0", "soon"])
def test_a_deadline_that_is_no_time_means_the_maximum(served, asked: str) -> None:
    answer = infer(served, "mean", served.random_input(1), x_request_timeout_seconds=asked)
    assert answer.status == 200


def test_a_deadline_that_nothing_can_meet_is_late(served) -> None:
    answer = infer(served, "mean", served.random_input(1), x_request_timeout_seconds="0.0015")
    # 408: the guard's own, where not even the answer that it is late came in time.
    assert answer.status in (504, 408)


def test_two_hundred_requests_at_once_are_all_answered(served, tiny, cut) -> None:
    arrays = [served.random_input(1, seed=seed) for seed in range(200)]
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda array: infer(served, "mean", array), arrays))
    for array, answer in zip(arrays, answers, strict=True):
        wanted = mean([tiny(array), cut(array)], [1, 3])
        np.testing.assert_allclose(outputs(answer)["probabilities"], wanted, **CLOSE)


def test_metrics_by_route_branch_and_outcome(served) -> None:
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


def test_the_routes_have_openapi_pages(served) -> None:
    paths = ask(f"{served.url}/models/mean/openapi.json").json["paths"]
    assert any(re.fullmatch(r"(/v2/models/mean)?/infer", path) for path in paths)
    assert not any("predict" in path for path in paths)
