"""Errors of configs: file, YAML path, value and allowed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.config.base import load, parse
from cluster.config.gate import Gate
from cluster.config.locate import located
from cluster.config.recipe import Recipe
from cluster.config.serving import ModelArgs
from cluster.errors import ConfigError

MODEL = {"source": "torchvision:resnet18"}
PRUNE = {"kind": "prune", "method": "structured"}
KINDS = "'train', 'prune', 'distill', 'quantize', 'replace_activation'"


def refusal(kind: type, raw: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(raw, kind, "it.yaml")
    return str(caught.value)


def recipe(**fields: Any) -> dict[str, Any]:
    return {"name": "digits", "model": MODEL, **fields}


def serving(**fields: Any) -> dict[str, Any]:
    return {"name": "digits", "artifact": "digits", **fields}


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"modle": 1}, ["modle", "known: name, model, data"]),
        ({"model": {**MODEL, "weigths": "x"}}, ["model.weigths", "source, weights", "'x'"]),
        ({"model": {"source": "tf:x"}}, ["model.source", "'tf:x'", "torchvision:", "hf:"]),
        ({"model": {"source": "torchvision:"}}, ["model.source", "torchvision:..."]),
        ({"model": {"source": "python:mod"}}, ["model.source", "'python:mod'", "module:factory"]),
        ({"model": {**MODEL, "image": {}, "text": {}}}, ["model:", "image and text"]),
        ({"model": {**MODEL, "image": {"siez": 9}}}, ["model.image.siez", "size, resize"]),
        ({"model": {**MODEL, "image": {"size": 64, "resize": 32}}}, ["resize=32", "size=64"]),
        ({"model": {**MODEL, "image": {"channels": 1}}}, ["mean has 3 values", "channel: 1"]),
        ({"model": {**MODEL, "num_classes": 0}}, ["model.num_classes", "equal to 1", "given: 0"]),
        ({"data": {"source": "csv:x"}}, ["data.source", "'csv:x'", "imagefolder:", "digits"]),
        ({"data": {"test_source": "digit"}}, ["data.test_source", "'digit'", "safetensors:"]),
        ({"data": {"test_share": 1}}, ["data.test_share", "less than 1", "given: 1"]),
        (
            {"steps": [{"kind": "shrink"}]},
            [f"steps[0].kind: expected one of {KINDS} (given: 'shrink')"],
        ),
        ({"steps": [{"epochs": 1}]}, [f"steps[0].kind: Field required, one of {KINDS}"]),
        ({"steps": ["train"]}, ["steps[0]: ", "dictionary", "(given: 'train')"]),
        (
            {"steps": [{"kind": "train", "epohcs": 1}]},
            ["steps[0].epohcs: unknown field; known: epochs, updates, batch_size", "(given: 1)"],
        ),
        (
            {"steps": [{"kind": "quantize", "scheme": "bf16", "train": 1}]},
            ["steps[0].train: unknown field; known: kind, scheme, calibration, percentile"],
        ),
        ({"programs": [{"x": 1}]}, ["programs[0].x: unknown field; known: target, kinds (given"]),
        (
            {"model": {**MODEL, "tensor": {"shape": [0]}}},
            ["model.tensor.shape[0]: ", "equal to 1 (given: 0)"],
        ),
        ({"steps": [{"kind": "train", "epochs": 0}]}, ["steps[0].epochs", "given: 0"]),
        (
            {"steps": [{"kind": "quantize", "scheme": "int4"}]},
            ["steps[0].scheme", "'weight_only_int4', 'bf16'", "given: 'int4'"],
        ),
        (
            {"steps": [{"kind": "quantize", "scheme": "bf16"}, {"kind": "train"}]},
            ["steps[0] quantizes", "last step", "steps[1] (train)"],
        ),
        ({"programs": [{"kinds": ["onnx"]}]}, ["programs[0].kinds[0]", "'aoti'", "'onnx'"]),
        ({"programs": [{"target": "tpu"}]}, ["programs[0].target", "cpu-x86", "given: 'tpu'"]),
        (
            {"steps": [PRUNE | {"ratio": 1}]},
            ["steps[0].ratio", "less than 1", "given: 1"],
        ),
        ({"steps": [PRUNE | {"ratio": 0}]}, ["steps[0].ratio", "greater than 0", "given: 0"]),
        (
            {"steps": [PRUNE]},
            ["steps[0]: method structured takes ratio or speedup of ratio and speedup", "neither"],
        ),
        (
            {"steps": [PRUNE | {"method": "semi_structured", "ratio": 0.5}]},
            ["method semi_structured takes neither", "got ratio"],
        ),
        (
            {"steps": [{"kind": "quantize", "scheme": "bf16", "training": {}}]},
            ["steps[0]: training goes with scheme static_int8 or dynamic_int8, not with bf16"],
        ),
        (
            {"steps": [{"kind": "quantize", "scheme": "fp16", "keep": ["a"]}]},
            ["keep goes with scheme static_int8 or dynamic_int8 or weight", "not with fp16"],
        ),
        (
            {"steps": [{"kind": "distill", "losses": [{"name": "feature_mse"}]}]},
            ["steps[0].losses[0]", "feature_mse needs student_layer and teacher_layer"],
        ),
        (
            {"steps": [{"kind": "distill", "losses": [{"name": "kl", "student_layer": "a"}]}]},
            ["steps[0].losses[0]", "student_layer goes with name feature_mse, not with kl"],
        ),
        ({"steps": [{"kind": "distill", "losses": []}]}, ["steps[0].losses", "at least 1"]),
        (
            {"steps": [{"kind": "distill", "teacher": {"artifact": "a", "model": MODEL}}]},
            ["steps[0].teacher", "either model or artifact"],
        ),
        (
            {"steps": [{"kind": "replace_activation", "old": "relu", "new": "relu"}]},
            ["steps[0].new", "old and new are the same"],
        ),
        (
            {"steps": [{"kind": "replace_activation", "old": "swish", "new": "relu"}]},
            ["steps[0].old", "'silu'", "given: 'swish'"],
        ),
        ({"evaluation": {"batches": [8]}}, ["evaluation.batches", "must rise from 1"]),
        ({"evaluation": {"batches": [1, 8, 4]}}, ["evaluation.batches", "must rise from 1"]),
        ({"evaluation": {"metrics": ["f2"]}}, ["evaluation.metrics", "'f2'", "python:module"]),
        ({"gate": {"confidence": 1}}, ["gate.confidence", "less than 1", "given: 1"]),
        (
            {"search": {"space": {"prune": None, "schemes": ["none"]}}},
            ["search", "nothing to try"],
        ),
        (
            {"steps": [PRUNE | {"method": "magnitude", "ratio": 0.5}, {"kind": "train"}]},
            ["steps[1] (train) trains", "fill the zeros of steps[0]", "steps[0].recovery"],
        ),
        (
            {
                "steps": [
                    PRUNE | {"method": "semi_structured"},
                    {"kind": "quantize", "scheme": "static_int8", "training": {}},
                ]
            },
            ["steps[1] (quantize) trains", "steps[0]"],
        ),
        (
            {"search": {"space": {"recovery": {"epohcs": 1}}}},
            ["search.space.recovery.epohcs: unknown field; known: epochs, updates", "loss (given"],
        ),
        (
            {"search": {"space": {"recovery": {"kind": "distill", "epohcs": 1}}}},
            ["search.space.recovery.epohcs: unknown field; known: epochs, updates", "losses (giv"],
        ),
        (
            {"search": {"space": {"recovery": {"kind": "distil"}}}},
            ["search.space.recovery.kind: Input should be 'distill' (given: 'distil')"],
        ),
        (
            {"search": {"space": {"recovery": {"kind": "distill", "losses": [{"name": "l1"}]}}}},
            ["search.space.recovery.losses[0].name: ", "'feature_mse' (given: 'l1')"],
        ),
        (
            {"name": 55 * "n", "search": {}},
            ["has 55 characters", "may have 54", "NAME.front-NUMBER"],
        ),
        ({"search": {"space": {"prune": {"ratios": [1.5]}}}}, ["ratios[0]", "less than 1"]),
        (
            {"search": {}, "steps": [{"kind": "quantize", "scheme": "bf16"}]},
            ["steps[0] quantizes", "search.space.schemes"],
        ),
        ({"programs": [{}, {}]}, ["programs", "cpu-x86"]),
        ({"gate": {"max_accuracy_drop": 2}}, ["gate.max_accuracy_drop", "equal to 1", "given: 2"]),
        ({"name": "a b"}, ["name", "'a b'"]),
    ],
)
def test_recipe_error_names_path_value_and_allowed_values(
    fields: dict[str, Any], parts: list[str]
) -> None:
    message = refusal(Recipe, recipe(**fields))
    assert message.startswith("it.yaml: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"batching": {"max_batchsize": 8}}, ["batching.max_batchsize", "max_batch_size"]),
        ({"batching": {"buckets": [4, 2]}}, ["batching", "[4, 2]", "increasing"]),
        ({"batching": {"buckets": [2, 4]}}, ["batching", "[2, 4]", "max_batch_size=8"]),
        ({"limits": {"body_bytes": 0}}, ["limits.body_bytes", "equal to 1", "given: 0"]),
        ({"max_ongoing_requests": 2}, ["max_ongoing_requests=2", "max_batch_size=8"]),
        ({"replicas": 2, "autoscaling": {"max_replicas": 3}}, ["replicas or autoscaling"]),
        ({"replicas": "two"}, ["replicas", "integer", "given: 'two'"]),
    ],
)
def test_serving_error_names_path_value_and_allowed_values(
    fields: dict[str, Any], parts: list[str]
) -> None:
    message = refusal(ModelArgs, serving(**fields))
    for part in parts:
        assert part in message


MAGNITUDE = {"kind": "prune", "method": "magnitude", "ratio": 0.5}
TWO_OF_FOUR = {"kind": "prune", "method": "semi_structured"}
BF16 = {"kind": "quantize", "scheme": "bf16"}
ADAMW = {"optimizer": "adamw", "momentum": 0.5}


@pytest.mark.parametrize(
    ("step", "field", "where", "users"),
    [
        (MAGNITUDE | {"importance": "taylor"}, "importance", "", "method structured"),
        (MAGNITUDE | {"round_to": 4}, "round_to", "", "method structured"),
        (TWO_OF_FOUR | {"scope": "local"}, "scope", "", "method magnitude or structured"),
        (TWO_OF_FOUR | {"iterations": 2}, "iterations", "", "method magnitude or structured"),
        (BF16 | {"calibration": "minmax"}, "calibration", "", "scheme static_int8"),
        (BF16 | {"calibration_samples": 9}, "calibration_samples", "", "scheme static_int8"),
        (BF16 | {"scheme": "dynamic_int8", "percentile": 99}, "percentile", "", "scheme static"),
        (
            BF16 | {"scheme": "static_int8", "percentile": 99},
            *("percentile", "", "calibration percentile"),
        ),
        ({"kind": "train"} | ADAMW, "momentum", "", "optimizer sgd"),
        (TWO_OF_FOUR | {"recovery": ADAMW}, "momentum", ".recovery", "optimizer sgd"),
        (
            {"kind": "distill", "losses": [{"name": "mse", "temperature": 2}]},
            *("temperature", ".losses[0]", "name kl"),
        ),
    ],
)
def test_field_without_effect_is_rejected(
    step: dict[str, Any], field: str, where: str, users: str
) -> None:
    message = refusal(Recipe, recipe(steps=[step]))
    assert f"it.yaml: steps[0]{where}: {field} goes with {users}" in message
    assert f"where it has no effect; remove {field}" in message


@pytest.mark.parametrize(
    "step",
    [
        MAGNITUDE | {"iterations": 2, "scope": "local", "recalibration_samples": 9},
        PRUNE | {"ratio": 0.5, "scope": "local", "importance": "bn", "round_to": 2},
        TWO_OF_FOUR | {"recovery": {"optimizer": "adamw"}},
        BF16,
        BF16 | {"scheme": "static_int8", "calibration": "percentile", "percentile": 99},
        {"kind": "distill", "losses": [{"name": "kl", "temperature": 2}, {"name": "mse"}]},
    ],
)
def test_dumped_recipe_parses_to_same_recipe(step: dict[str, Any]) -> None:
    read = parse(recipe(steps=[step]), Recipe, "it.yaml")
    assert parse(read.model_dump(mode="json"), Recipe, "it.yaml") == read
    assert Recipe.model_validate_json(read.model_dump_json()) == read


def gate_of(**fields: Any) -> Gate:
    return parse(recipe(**fields), Recipe, "it.yaml").gate


def test_gate_names_limits_with_default_values() -> None:
    usual = ("max_accuracy_drop", "min_agreement", "min_speedup", "max_size_share")
    assert gate_of().defaults == usual
    # Naming a limit is a choice, also where it has the default's value.
    assert gate_of(gate={"min_speedup": 1.0, "max_accuracy_drop": None}).defaults == (
        "min_agreement",
        "max_size_share",
    )
    assert gate_of(gate={"max_bytes": 9}).defaults == usual


def test_gate_keeps_default_names_through_storage() -> None:
    stored = gate_of(gate={"min_speedup": 1.0}).model_dump(mode="json")
    assert gate_of(gate=stored).defaults == ("max_accuracy_drop", "min_agreement", "max_size_share")
    # A limit that is changed in the stored form is not a default.
    assert gate_of(gate=stored | {"max_size_share": None}).defaults == (
        "max_accuracy_drop",
        "min_agreement",
    )
    assert "gate.defaults[0]" in refusal(Recipe, recipe(gate={"defaults": ["speed"]}))


TRAIN = {"kind": "train", "epochs": 1}
DISTILL = {"kind": "distill", "epochs": 1}
INT8 = {"kind": "quantize", "scheme": "static_int8"}


@pytest.mark.parametrize(
    ("steps", "limit"),
    [
        ([], 0.9),
        ([TRAIN, INT8], 0.9),  # the baseline is the trained model
        ([PRUNE | {"ratio": 0.5}, INT8], 0.9),
        ([TRAIN, DISTILL], None),
        ([{"kind": "replace_activation", "old": "silu", "new": "relu"}, TRAIN], None),
        ([PRUNE | {"ratio": 0.5, "recovery": {"epochs": 1}}], None),
        ([INT8 | {"training": {"epochs": 1}}], None),
    ],
)
def test_agreement_has_no_default_if_training_follows(
    steps: list[dict[str, Any]], limit: float | None
) -> None:
    read = parse(recipe(steps=steps), Recipe, "it.yaml")
    assert read.limits_for().min_agreement == limit
    assert read.limits_for().max_accuracy_drop == 0.02
    chosen = parse(recipe(steps=steps, gate={"min_agreement": 0.9}), Recipe, "it.yaml")
    assert chosen.limits_for().min_agreement == 0.9


def test_agreement_has_no_default_if_search_trains() -> None:
    read = parse(recipe(search={}), Recipe, "it.yaml")
    (trained,) = parse(recipe(steps=[DISTILL]), Recipe, "it.yaml").steps
    assert read.limits_for().min_agreement == 0.9
    assert read.limits_for([trained]).min_agreement is None


@pytest.mark.parametrize("kind", [{}, {"kind": "distill"}])
def test_misspelt_field_of_recovery_is_one_line(kind: dict[str, Any]) -> None:
    raw = recipe(search={"space": {"recovery": {**kind, "epohcs": 1}}})
    assert len(refusal(Recipe, raw).splitlines()) == 1


def test_search_name_leaves_room_for_front_suffix() -> None:
    searched = parse(recipe(name=54 * "n", search={}), Recipe, "it.yaml")
    assert searched.search is not None
    last = f"{searched.name}.front-{searched.search.space.most_trials}"
    assert len(last) == 63
    assert parse(recipe(name=last), Recipe, "it.yaml").name == last
    assert "it may have 54" in refusal(Recipe, recipe(name=55 * "n", search={}))


def test_every_error_has_its_line() -> None:
    message = refusal(ModelArgs, serving(replicas=0, compute_threads=0))
    assert [line.split(": ")[1] for line in message.splitlines()] == ["compute_threads", "replicas"]


def test_list_instead_of_mapping_is_rejected() -> None:
    assert "expected a mapping of fields, got list" in refusal(Recipe, [1])


def test_missing_field_is_named() -> None:
    assert "it.yaml: model: Field required" in refusal(Recipe, {"name": "digits"})


def test_file_error_names_file(tmp_path: Path) -> None:
    missing, broken = tmp_path / "none.yaml", tmp_path / "broken.yaml"
    broken.write_text("name: [unclosed")
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load(missing, Recipe)
    with pytest.raises(ConfigError, match=r"broken\.yaml: not valid YAML"):
        load(broken, Recipe)


def test_recipe_loads_from_yaml_with_defaults(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "name: digits\nmodel: {source: 'torchvision:resnet18'}\n"
        "steps: [{kind: train}, {kind: quantize, scheme: static_int8}]\n"
    )
    read = load(file, Recipe)
    assert read.data.source == "digits"
    assert [step.kind for step in read.steps] == ["train", "quantize"]
    assert [program.target for program in read.programs] == ["cpu-x86"]


def test_replica_holds_four_batches_or_sixteen_requests() -> None:
    assert parse(serving(), ModelArgs, "it.yaml").ongoing_requests == 32
    small = serving(batching={"max_batch_size": 2})
    assert parse(small, ModelArgs, "it.yaml").ongoing_requests == 16
    explicit = serving(max_ongoing_requests=9)
    assert parse(explicit, ModelArgs, "it.yaml").ongoing_requests == 9


def test_paths_resolve_beside_recipe_or_from_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.safetensors").touch()
    (tmp_path / "encoder").mkdir()
    monkeypatch.setenv("HEADRACE_DATA", "/somewhere")
    teacher = {"source": "python:nets:large", "weights": "$HEADRACE_DATA/large.safetensors"}
    resolved = located(
        parse(
            recipe(
                model={"source": "hf:encoder", "weights": "net.safetensors"},
                data={
                    "source": "safetensors:${HEADRACE_DATA}/train.safetensors",
                    "test_source": "imagefolder:photos",
                },
                steps=[{"kind": "distill", "teacher": {"model": teacher}}],
            ),
            Recipe,
            "it.yaml",
        ),
        tmp_path,
    )
    assert resolved.model.source == f"hf:{tmp_path}/encoder"
    assert resolved.model.weights == f"{tmp_path}/net.safetensors"
    assert resolved.data.source == "safetensors:/somewhere/train.safetensors"
    assert resolved.data.test_source == f"imagefolder:{tmp_path}/photos"
    assert resolved.baseline_source.weights == "/somewhere/large.safetensors"
    hub = parse(recipe(model={**MODEL, "weights": "IMAGENET1K_V1"}), Recipe, "it.yaml")
    assert located(hub, tmp_path) == hub


def test_unset_variable_is_named_with_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_DATA", raising=False)
    read = parse(recipe(model={**MODEL, "weights": "${HEADRACE_DATA}/a.pt"}), Recipe, "it.yaml")
    with pytest.raises(ConfigError, match=r"model\.weights: .* HEADRACE_DATA, which is not set"):
        located(read, tmp_path)


def test_baseline_is_teacher_before_other_compression() -> None:
    teacher = {"source": "torchvision:resnet50"}
    distill = {"kind": "distill", "teacher": {"model": teacher}}
    train, prune = {"kind": "train"}, PRUNE | {"ratio": 0.5}
    for steps, expected in (
        ([], MODEL),
        ([train], MODEL),
        ([distill], teacher),
        ([train, distill], teacher),
        ([prune, distill], MODEL),
        ([{"kind": "distill"}], MODEL),
        ([{"kind": "distill", "teacher": {"artifact": "a"}}], MODEL),
    ):
        read = parse(recipe(steps=steps), Recipe, "it.yaml")
        assert read.baseline_source.source == expected["source"]


def test_teacher_without_inputs_uses_those_of_student() -> None:
    image = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    teacher = {"source": "python:nets:large", "weights": "large.safetensors"}
    distill = {"kind": "distill", "teacher": {"model": teacher}}
    student = {"source": "python:nets:small", "image": image}
    read = parse(recipe(model=student, steps=[distill]), Recipe, "it.yaml")
    assert read.baseline_source.source == "python:nets:large"
    assert read.baseline_source.image == read.model.image
