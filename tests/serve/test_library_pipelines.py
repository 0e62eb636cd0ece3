"""Models of two libraries' worlds, as served: the answers of the library's own pipelines.

own processor or tokenizer, own model ─→ transformers.pipeline ─→ labels, scores ─┐
the same folder ─→ recipe ─→ job ─→ artifact ─→ serve deploy ─→ /predict ──────────┴─ equal

The weights are random, and scaled so that answers differ: the comparison needs no accuracy.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from support import serve_config
from support.cluster import running
from support.golden import build
from support.http_client import ask
from support.wait import WITHIN_S

from cluster.config.recipe import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REQUESTS = 200
CLASSES = ("heron", "lorry", "plum", "tuba", "yak")
WORDS = ("a", "of", "on", "the", "in", "one", "red", "old", "late", "house", "river", "music")


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """Cuts of two photographs as JPEG and PNG files, of many sizes and proportions."""
    random = np.random.default_rng(5)
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    files = []
    for index in range(REQUESTS):
        photo = photos[index % 2]
        width, height = (int(side) for side in random.integers(40, 400, 2))
        left = int(random.integers(0, photo.width - width))
        top = int(random.integers(0, photo.height - height))
        cut = photo.crop((left, top, left + width, top + height))
        file = io.BytesIO()
        cut.save(file, "JPEG" if index % 3 else "PNG", quality=90)
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Texts of 0 to 60 words, some longer than the model's input, some with unknown words."""
    random = np.random.default_rng(6)
    vocabulary = [*WORDS, "unseen", "Häuser", "?!"]
    return [
        " ".join(random.choice(vocabulary, int(random.integers(1, 60)))) for _ in range(REQUESTS)
    ]


def enlarge(model: torch.nn.Module) -> None:
    """Enlarge the initial weights, with which all items get nearly the same features."""
    for part in model.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Embedding):
            part.weight.data *= 5


def spread(classifier: torch.nn.Linear, features: torch.Tensor) -> None:
    """Scale and shift a classifier so that every class is the answer to some of the features."""
    with torch.no_grad():
        logits = classifier(features)
        classifier.weight /= logits.std(0, keepdim=True).T
        classifier.bias.zero_()
        classifier.bias -= classifier(features).mean(0)
        classifier.weight *= 2
        classifier.bias *= 2


def image_folder(folder: Path, pictures: Sequence[bytes]) -> Path:
    """Save a ViT of Transformers with its processor."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    config = transformers.ViTConfig(
        image_size=64,
        patch_size=8,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        id2label=dict(enumerate(CLASSES)),
    )
    model = transformers.ViTForImageClassification(config).eval()
    processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    enlarge(model)
    images = [Image.open(io.BytesIO(file)).convert("RGB") for file in pictures[:64]]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = model.vit(pixel_values=pixels).last_hidden_state[:, 0]
    spread(model.classifier, features)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def text_folder(folder: Path, sentences: Sequence[str]) -> Path:
    """Save a DistilBERT of Transformers with its tokenizer."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS, "?", "!"])}
    tokenizer = transformers.DistilBertTokenizerFast(vocab=vocabulary, model_max_length=48)
    torch.manual_seed(3)
    config = transformers.DistilBertConfig(
        vocab_size=len(vocabulary),
        dim=64,
        hidden_dim=128,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=48,
        id2label=dict(enumerate(CLASSES)),
    )
    model = transformers.DistilBertForSequenceClassification(config).eval()
    enlarge(model)
    encoded = tokenizer(list(sentences[:64]), padding=True, truncation=True, return_tensors="pt")
    encoded.pop("token_type_ids", None)
    with torch.no_grad():
        hidden = model.distilbert(**encoded).last_hidden_state[:, 0]
        spread(model.classifier, model.pre_classifier(hidden).relu())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recipe(name: str, folder: Path, data: dict[str, Any]) -> Recipe:
    """Return the recipe of a folder, without a step: the float32 model itself is served."""
    return Recipe.model_validate(
        {
            "name": name,
            "model": {"source": f"hf:{folder}"},
            "data": data,
            "steps": [],
            "programs": [{"kinds": ["openvino"]}],
            "evaluation": {"repeats": 10, "batches": [1]},
            # A dozen held-out samples bound nothing closely, and no step changes the model.
            "gate": {
                "max_accuracy_drop": 0.2,
                "min_agreement": 0.5,
                "min_speedup": None,
                "max_size_share": None,
            },
        }
    )


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes], sentences: list[str]
) -> Iterator[tuple[str, Path, Path]]:
    """Yield the URL of a cluster that serves both models, and the models' folders."""
    root = tmp_path_factory.mktemp("worlds")
    images, texts = image_folder(root / "image", pictures), text_folder(root / "text", sentences)
    for index, file in enumerate(pictures[:60]):
        kept = root / "pictures" / CLASSES[index % len(CLASSES)] / f"{index}.jpg"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(file)
    (root / "headrace_worlds.py").write_text(
        f"def sentences():\n    return {sentences[:60]!r}, [i % 5 for i in range(60)], {CLASSES!r}"
    )
    store = root / "store"
    store.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        patch.setenv("PYTHONPATH", str(root), prepend=":")
        files, texts_of_job = f"imagefolder:{root / 'pictures'}", "python:headrace_worlds:sentences"
        build(recipe("picture", images, {"source": files}), store)
        build(recipe("sentence", texts, {"source": texts_of_job}), store)
    applications = [serve_config.model(name, name, store) for name in ("picture", "sentence")]
    with running(root / "state", cpus=4) as cluster:
        cluster.deploy(serve_config.write(root, *applications), timeout_s=WITHIN_S)
        yield cluster.http, images, texts


def answers(url: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    scores = []
    for body in bodies:
        raw = json.dumps({**body, "top_k": len(CLASSES)}).encode()
        answer = ask(url, raw, {"Content-Type": "application/json"})
        assert answer.status == 200, answer
        scores.append(
            {entry["label"]: entry["probability"] for entry in answer.json["predictions"]}
        )
    return scores


def require_equal(
    ours: Sequence[dict[str, float]], pipeline: Callable[[Any], Any], inputs: Sequence[Any]
) -> None:
    """Compare all scores, and the first label unless the library's two best are within 2e-3."""
    firsts = set()
    for scores, value in zip(ours, inputs, strict=True):
        theirs = {entry["label"]: entry["score"] for entry in pipeline(value)}
        assert scores.keys() == theirs.keys() == set(CLASSES)
        assert scores == pytest.approx(theirs, abs=1e-3)
        best, second = sorted(theirs.values())[:-3:-1]
        first = max(theirs, key=lambda label: theirs[label])
        firsts.add(first)
        if best - second > 2e-3:
            assert max(scores, key=lambda label: scores[label]) == first
    assert firsts == set(CLASSES), "the model gives too few answers for a comparison"


def test_pictures_get_answers_of_own_processor(
    served: tuple[str, Path, Path], pictures: list[bytes]
) -> None:
    transformers = pytest.importorskip("transformers")
    url, folder, _ = served
    bodies = [{"image": base64.b64encode(file).decode()} for file in pictures]
    pipeline = transformers.pipeline("image-classification", model=str(folder), device="cpu")
    require_equal(
        answers(f"{url}/v2/models/picture/predict", bodies),
        lambda file: pipeline(Image.open(io.BytesIO(file)), top_k=len(CLASSES)),
        pictures,
    )


def test_texts_get_answers_of_own_tokenizer(
    served: tuple[str, Path, Path], sentences: list[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    url, _, folder = served
    pipeline = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    require_equal(
        answers(f"{url}/v2/models/sentence/predict", [{"text": text} for text in sentences]),
        lambda text: pipeline(text, top_k=None, truncation=True),
        sentences,
    )
