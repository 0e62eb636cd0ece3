"""Transformers models: tiny random ones, saved and loaded as users do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.config.recipe import DataSource, ImageInput, ModelSource
from cluster.data import PreparedSamples, load_data
from cluster.errors import SourceError
from cluster.models import LoadedModel, load_model, source_fingerprint


def load(source: str, labels: tuple[str, ...] = (), **fields: Any) -> LoadedModel:
    return load_model(ModelSource.model_validate({"source": source, **fields}), labels)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A random BERT classifier of two named classes, and its tokenizer, saved as users do."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    root = tmp_path / "bert"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(root)
    config = transformers.BertConfig(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        id2label={0: "negative", 1: "positive"},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(root)
    return root


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A random ViT classifier of three unnamed classes, and its image processor."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    root = tmp_path / "vit"
    transformers.ViTForImageClassification(config).save_pretrained(root)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(root)
    return root


def test_hf_text(bert: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = load(f"hf:{bert}")
    assert [(s.name, s.datatype, s.shape) for s in model.inputs] == [
        ("input_ids", "INT64", (-1, 12)),
        ("attention_mask", "INT64", (-1, 12)),
    ]
    assert model.labels == ("negative", "positive")
    assert json.loads(model.files["tokenizer.json"])["padding"]["pad_token"] == "[PAD]"
    ids = torch.tensor([[2, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 0, 0]])
    whole = transformers.BertForSequenceClassification.from_pretrained(bert).eval()
    with torch.inference_mode():
        expected = whole(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(model.module(ids, mask), expected)


def test_hf_text_from_words_to_logits(bert: Path, module_file: Callable[[str], str]) -> None:
    source = module_file("def make(): return ['good', 'bad', 'bad good', 'x'], [1, 0, 0, 0]")
    data = load_data(DataSource(source=source), seed=0)
    model = load(f"hf:{bert}", text={"max_length": 6})
    samples = PreparedSamples(
        data.train, model.inputs, model.preprocess, model.files["tokenizer.json"]
    )
    arrays, _ = samples.batch(range(len(samples)))
    assert arrays[0].shape == (3, 6)
    assert model.module(*map(torch.from_numpy, arrays)).shape == (3, 2)


def test_hf_image(vit: Path) -> None:
    model = load(f"hf:{vit}", ("a", "b", "c"))
    half = (0.5, 0.5, 0.5)
    assert model.preprocess == ImageInput(size=16, mean=half, std=half)
    assert model.inputs[0].shape == (-1, 3, 16, 16)
    assert (model.labels, model.files) == (("a", "b", "c"), {})


def test_hf_models_export_with_a_dynamic_batch(bert: Path, vit: Path) -> None:
    for root in (bert, vit):
        model = load(f"hf:{root}")
        batch = torch.export.Dim("batch", min=1, max=64)
        example = tuple(torch.from_numpy(spec.zeros(2)) + 1 for spec in model.inputs)
        exported = torch.export.export(
            model.module, example, dynamic_shapes=tuple({0: batch} for _ in example), strict=True
        ).module()
        five = tuple(part[:1].repeat(5, *[1] * (part.ndim - 1)) for part in example)
        torch.testing.assert_close(exported(*five), model.module(*five))


def test_hf_gets_a_new_head_for_other_classes(bert: Path) -> None:
    own, new = load(f"hf:{bert}"), load(f"hf:{bert}", ("a", "b", "c"))
    assert (new.labels, new.outputs[0].shape) == (("a", "b", "c"), (-1, 3))
    name = "model.bert.embeddings.word_embeddings.weight"
    assert torch.equal(own.module.state_dict()[name], new.module.state_dict()[name])


def test_hf_labels_in_another_order_are_refused(bert: Path) -> None:
    with pytest.raises(SourceError, match=r"class 0 is 'negative' .* but 'positive' in the data"):
        load(f"hf:{bert}", ("positive", "negative"))


def test_hf_crop_and_resize(vit: Path) -> None:
    def with_settings(**changes: Any) -> ImageInput:
        file = vit / "preprocessor_config.json"
        settings = {**json.loads(original), **changes}
        file.write_text(json.dumps(settings))
        image = load(f"hf:{vit}").preprocess
        assert isinstance(image, ImageInput)
        return image

    original = (vit / "preprocessor_config.json").read_text()
    crop = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
    square = {"height": 16, "width": 16}
    # CLIP's form: the shorter side, then a crop.
    clip = {**crop, "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 20}}
    assert with_settings(**clip).resize == 20
    conv = {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.8}
    assert with_settings(**conv, size={"shortest_edge": 16}).resize == 20
    assert with_settings(do_normalize=False).std == (1.0, 1.0, 1.0)
    for odd in (
        {"rescale_factor": 1.0},
        {"do_resize": False},
        {"size": {"height": 16, "width": 8}},
        {**crop, "image_processor_type": "DeiTImageProcessor", "size": square},
    ):
        with pytest.raises(SourceError, match=r"cannot be taken over.*declare model\.image"):
            with_settings(**odd)


def test_hf_refusals(bert: Path, vit: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"takes images; remove model\.text"):
        load(f"hf:{vit}", text={})
    with pytest.raises(SourceError, match=r"takes text; remove model\.image"):
        load(f"hf:{bert}", image={})
    with pytest.raises(SourceError, match="brings its own weights; remove it"):
        load(f"hf:{bert}", weights="w.pt")
    with pytest.raises(SourceError, match="AutoConfig cannot be read"):
        load(f"hf:{tmp_path}/missing")


def test_hf_refuses_other_architectures_and_missing_weights(bert: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig.from_pretrained(bert)
    body = transformers.BertModel(config)
    body.save_pretrained(bert)
    with pytest.raises(SourceError, match=r"is BertModel; expected .*ForSequenceClassification"):
        load(f"hf:{bert}")
    changed = json.loads((bert / "config.json").read_text())
    changed["architectures"] = ["BertForSequenceClassification"]
    (bert / "config.json").write_text(json.dumps(changed))
    with pytest.raises(SourceError, match=r"the weights lack classifier\.bias"):
        load(f"hf:{bert}")


def test_hf_refuses_pickled_weights(bert: Path, tmp_path: Path) -> None:
    (bert / "model.safetensors").unlink()
    target = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(target),)

    (bert / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(SourceError, match="safetensors"):
        load(f"hf:{bert}")
    assert not target.exists()


def test_without_transformers_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "from cluster.models import load_model\n"
        "from cluster.config.recipe import ModelSource\n"
        "load_model(ModelSource(source='hf:any'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert "SourceError" in done.stderr
    assert "pip install 'headrace[hf]'" in done.stderr


def test_a_fingerprint_follows_the_files_of_a_local_model(bert: Path) -> None:
    source = ModelSource(source=f"hf:{bert}")
    before = source_fingerprint(source)
    assert source_fingerprint(source) == before
    (bert / "config.json").write_text((bert / "config.json").read_text() + " ")
    assert source_fingerprint(source) != before
