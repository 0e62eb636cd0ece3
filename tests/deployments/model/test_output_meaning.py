"""Meaning of outputs, from a Hugging Face config to /predict, compared with its own pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.asgi import ask

from cluster.artifact.manifest import Manifest
from cluster.config.serving import Limits
from cluster.config.sources import ImageInput, ModelSource, TextInput
from cluster.errors import SourceError
from cluster.models import LoadedModel, load_model
from cluster.preprocess import TextEncoder
from cluster.runtime.content_digest import ContentDigest
from cluster.runtime.fatal_requests import FatalRequests
from deployments.http.paths import ModelApp
from deployments.model.endpoint import of_model
from deployments.model.infer import Model

ROOT = "/v2/models/m"
TEXT = "w1 w2 w3 w9"
NAMES = ("toxic", "insult", "threat", "obscene")

LINEAR = ModelSource.model_validate(
    {"source": f"python:{__name__}:linear", "tensor": {"shape": [3]}}
)


def linear(num_classes: int = 1) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(3, num_classes)


@pytest.fixture
def bert(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a random BERT classifier with those fields of its config."""
    transformers = pytest.importorskip("transformers")

    def save(labels: Sequence[str], **fields: Any) -> Path:
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(10))]
        (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
        transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
        config = transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            id2label=dict(enumerate(labels)),
            **fields,
        )
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config)
        with torch.no_grad():
            model.classifier.bias.copy_(torch.tensor([3.0, 2.5, -2.0, -4.0][: len(labels)]))
        model.save_pretrained(tmp_path)
        return tmp_path

    return save


Serve = Callable[[LoadedModel], ModelApp]


@pytest.fixture
def served(tmp_path: Path) -> Serve:
    """Return ``served(loaded)``: the endpoints of a model that runs in this process."""
    return lambda loaded: _endpoints(loaded, tmp_path / "requests")


def _endpoints(loaded: LoadedModel, directory: Path) -> ModelApp:
    manifest = Manifest(
        name="m",
        recipe={},
        recipe_key="0" * 64,
        inputs=loaded.inputs,
        outputs=loaded.outputs,
        image=loaded.preprocess if isinstance(loaded.preprocess, ImageInput) else None,
        text=loaded.preprocess if isinstance(loaded.preprocess, TextInput) else None,
        labels=loaded.labels,
        activation=loaded.activation,
        files={},
        programs=(),
        quantized_operators=0,
    )

    async def submit(arrays: Sequence[np.ndarray], *_: object) -> Any:
        with torch.inference_mode():
            output = loaded.module(*map(torch.from_numpy, arrays)).numpy()
        return SimpleNamespace(outputs=[output], queue_s=0.0, compute_s=0.0, stage_s=())

    encoder = None
    if isinstance(loaded.preprocess, TextInput):
        encoder = TextEncoder(loaded.files["tokenizer.json"], loaded.preprocess)
    metrics: Any = SimpleNamespace(
        answered=lambda *_: None, failed=lambda *_: None, statistics=SimpleNamespace()
    )
    digest, fatal = ContentDigest(bytes(32)), FatalRequests(directory, "m")
    model = Model(
        "m", "1", "p", "m@1", manifest, 8, Limits(), encoder, submit, digest, fatal, metrics
    )
    return ModelApp(of_model(Manifest.from_json(manifest.to_json(), "m") and model))


def predict(app: ModelApp, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    answer = ask(app, f"{ROOT}/predict", json.dumps(body).encode(), headers, root_path=ROOT)
    assert answer.status == 200, answer
    return answer.json


@pytest.mark.parametrize(
    ("problem_type", "activation"),
    [
        (None, "softmax"),
        ("single_label_classification", "softmax"),
        ("multi_label_classification", "sigmoid"),
    ],
)
def test_probabilities_are_those_of_the_pipeline(
    bert: Callable[..., Path], served: Serve, problem_type: str | None, activation: str
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = bert(NAMES, problem_type=problem_type)
    app = served(load_model(ModelSource(source=f"hf:{folder}")))
    answer = predict(app, {"text": TEXT})["predictions"]
    pipeline = transformers.pipeline("text-classification", str(folder), device="cpu")
    theirs = pipeline(TEXT, top_k=None)
    assert [entry["label"] for entry in answer] == [entry["label"] for entry in theirs]
    np.testing.assert_allclose(
        [entry["probability"] for entry in answer], [entry["score"] for entry in theirs], rtol=1e-4
    )
    assert ask(app, ROOT, root_path=ROOT).json["activation"] == activation
    total = sum(entry["probability"] for entry in answer)
    assert (total == pytest.approx(1)) == (activation == "softmax")


@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [(("stars",), "regression"), (("stars",), None), (("valence", "arousal"), "regression")],
)
def test_regression_answers_its_numbers_by_name(
    bert: Callable[..., Path], served: Serve, labels: tuple[str, ...], problem_type: str | None
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = bert(labels, problem_type=problem_type)
    app = served(load_model(ModelSource(source=f"hf:{folder}")))
    answer = predict(app, {"text": TEXT})
    pipeline = transformers.pipeline("text-classification", str(folder), device="cpu")
    theirs = pipeline(TEXT, top_k=None, function_to_apply="none")
    assert answer["values"].keys() == set(labels)
    assert answer["values"] == pytest.approx({e["label"]: e["score"] for e in theirs}, rel=1e-4)
    schema = ask(app, f"{ROOT}/openapi.json", root_path=ROOT).json
    described = schema["paths"]["/predict"]["post"]["responses"]["200"]["content"]
    values = described["application/json"]["schema"]["properties"]["values"]
    assert values["required"] == list(labels)


def test_recipe_overrides_the_activation_of_the_source(
    bert: Callable[..., Path], served: Serve
) -> None:
    folder = bert(NAMES)
    loaded = load_model(ModelSource(source=f"hf:{folder}", activation="sigmoid"))
    probabilities = [
        e["probability"] for e in predict(served(loaded), {"text": TEXT})["predictions"]
    ]
    with torch.inference_mode():
        encoded = TextEncoder(loaded.files["tokenizer.json"], loaded.preprocess)(TEXT)
        logits = loaded.module(*(torch.from_numpy(encoded[s.name][None]) for s in loaded.inputs))
    np.testing.assert_allclose(probabilities, sorted(logits.sigmoid()[0].tolist())[::-1], rtol=1e-6)


def test_new_head_has_the_activation_of_its_size(bert: Callable[..., Path]) -> None:
    source = ModelSource(source=f"hf:{bert(('no', 'yes'))}")
    assert load_model(source, ("stars",)).activation == "none"
    assert load_model(source, ("a", "b", "c")).activation == "softmax"


def test_unnamed_numbers_are_a_list(served: Serve) -> None:
    loaded = load_model(LINEAR.model_copy(update={"activation": "none"}))
    answer = predict(served(loaded), {"inputs": [1, 2, 3]})
    expected = loaded.module(torch.tensor([[1.0, 2.0, 3.0]]))[0].tolist()
    assert answer == {"model_name": "m", "values": pytest.approx(expected)}


def test_single_logit_needs_an_activation(served: Serve) -> None:
    with pytest.raises(SourceError, match=r"softmax is always 1; set model\.activation: sigmoid"):
        load_model(LINEAR)
    binary = LINEAR.model_copy(update={"activation": "sigmoid"})
    (entry,) = predict(served(load_model(binary, ("spam",))), {"inputs": [1, 2, 3]})["predictions"]
    expected = load_model(binary).module(torch.tensor([[1.0, 2.0, 3.0]])).sigmoid().item()
    assert entry == {"label": "spam", "probability": pytest.approx(expected)}
