"""``hf:PATH_OR_ID``: a Transformers classifier or text encoder, and its preprocessing.

config.json architectures ─→ the model, wrapped to return only logits or embeddings
preprocessor_config.json  ─→ ImageInput      (…ForImageClassification)
tokenizer                 ─→ tokenizer.json  (…ForSequenceClassification, …Model)

``hf:package:NAME/FOLDER`` is a folder inside an installed Python package. No code of the source
runs: no remote code, weights from safetensors only, and the package is located without an import.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cluster import fingerprint
from cluster.activation import OutputActivation
from cluster.config.sources import ModelSource, TextInput
from cluster.errors import SourceError
from cluster.models import cards
from cluster.models.built_model import BuiltModel, image_spec
from cluster.models.hf_embeddings import with_pooling
from cluster.models.hf_images import image_input
from cluster.models.hf_padding import require_ignored_padding
from cluster.tensors import BATCH, TensorSpec

TOKENIZER_FILE = "tokenizer.json"

_IMAGE = "ForImageClassification"
_TEXT = "ForSequenceClassification"
_ENCODER = "Model"

_PACKAGE = "package:"
_CARD = "README.md"

_ACTIVATIONS: dict[str, OutputActivation] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}
"""A config's ``problem_type`` → activation."""


def build(path: str, source: ModelSource, classes: int | None) -> BuiltModel:
    """Load a model from a local directory, ``package:NAME/FOLDER``, or a repository id of the hub.

    If ``classes`` differs from a classifier's own, it gets a new head and its labels are dropped.
    An encoder returns embeddings and ignores ``classes``.

    Raises :class:`SourceError` when transformers is not installed, the path cannot be read, the
    weights are incomplete, or the model is of another architecture.
    """
    path = _resolve_package(path)
    transformers = _transformers()
    if source.weights is not None:
        raise SourceError(
            f"model.weights={source.weights!r}: an hf source has its own weights; remove it"
        )
    config = _read(path, transformers.AutoConfig)
    architectures = list(config.architectures or ())
    if any(name.endswith(_IMAGE) for name in architectures):
        _refuse(source, ("text", "tensor", "tensors"), "takes images")
        module, labels = _model(
            path, transformers.AutoModelForImageClassification, config.num_labels, classes
        )
        activation = _activation(module.config)
        image = source.image or image_input(_read(path, transformers.AutoImageProcessor), path)
        card = cards.of_model_card(_file(path, _CARD, transformers)) if labels else None
        return BuiltModel(
            _ImageLogits(module),
            (image_spec(image),),
            image,
            labels,
            card=card,
            activation=activation,
        )
    if any(name.endswith(_TEXT) for name in architectures):
        _refuse(source, ("image", "tensor", "tensors"), "takes text")
        module, labels = _model(
            path, transformers.AutoModelForSequenceClassification, config.num_labels, classes
        )
        activation = _activation(module.config)
        wrapped = _TextLogits(module)
        text, files = _text(path, source, module, wrapped, transformers)
        card = cards.of_model_card(_file(path, _CARD, transformers)) if labels else None
        return BuiltModel(
            wrapped,
            _token_specs(text),
            text,
            labels,
            files,
            card=card,
            activation=activation,
        )
    if any(name.endswith(_ENCODER) for name in architectures):
        _refuse(source, ("image", "tensor", "tensors", "num_classes"), "is an encoder of texts")
        encoder = _encoder(path, transformers.AutoModel)
        module = with_pooling(encoder, lambda name: _file(path, name, transformers), f"hf:{path}")
        text, files = _text(path, source, encoder, module, transformers)
        return BuiltModel(module, _token_specs(text), text, files=files, output="embedding")
    raise SourceError(
        f"hf:{path} is {', '.join(architectures) or 'of no named architecture'}; expected a "
        f"checkpoint of an architecture that ends in {_IMAGE}, {_TEXT}, or {_ENCODER} (a text "
        f"encoder such as BertModel)"
    )


def identity(path: str, source: ModelSource) -> str:
    """Return the fingerprint of a local directory's files, or the commit of a hub repository.

    Raises :class:`SourceError` when neither can be read.
    """
    path = _resolve_package(path)
    root = Path(path)
    if root.is_dir():
        try:
            # The pooling config lies one folder deeper; deeper files are other checkpoints.
            files = {*root.iterdir(), *root.glob("*/config.json")}
            return fingerprint.of_files(root, sorted(file for file in files if file.is_file()))
        except OSError as error:
            raise SourceError(f"hf:{path} cannot be read: {error}") from error
    config = _read(path, _transformers().AutoConfig)
    return f"{path}@{config._commit_hash}"


class _ImageLogits(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


class _TextLogits(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def _resolve_package(path: str) -> str:
    """Return ``path``, or the folder on disk of ``package:NAME/FOLDER``."""
    if not path.startswith(_PACKAGE):
        return path
    package, _, folder = path.removeprefix(_PACKAGE).partition("/")
    if not package.isidentifier():
        raise SourceError(f"hf:{path}: expected hf:package:NAME/FOLDER with an identifier as NAME")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            f"hf:{path}: package {package!r} is not installed; pip install "
            f"{package.replace('_', '-')}"
        )
    root = Path(next(iter(spec.submodule_search_locations)), folder)
    if not root.is_dir():
        raise SourceError(f"hf:{path}: {root} is not a folder")
    return str(root)


def _transformers() -> Any:
    # Imported here: an optional extra, and slow.
    try:
        import transformers
    except ImportError as error:
        raise SourceError(
            f"an hf: source needs transformers ({error}); pip install 'headrace[hf]'"
        ) from error
    return transformers


def _read(path: str, kind: Any, **options: Any) -> Any:
    """Return ``kind.from_pretrained(path)``, without running code of the source."""
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise SourceError(
            f"hf:{path}: {kind.__name__} cannot be read: {error}; expected a local directory "
            f"with config and .safetensors weights, or the id of a repository on the hub"
        ) from error


def _model(
    path: str, kind: Any, own_classes: int, classes: int | None
) -> tuple[Any, tuple[str, ...]]:
    new_head = classes is not None and classes != own_classes
    options = {"num_labels": classes, "ignore_mismatched_sizes": True} if new_head else {}
    model, report = _read(path, kind, use_safetensors=True, output_loading_info=True, **options)
    _refuse_missing(report["missing_keys"], path)
    names = tuple(str(model.config.id2label[index]) for index in range(model.config.num_labels))
    generic = tuple(f"LABEL_{index}" for index in range(len(names)))
    # Logits are FP32 for every stored dtype; compression may lower the precision later.
    return model.float(), () if new_head or names == generic else names


def _activation(config: Any) -> OutputActivation:
    """Return the activation of a classifier by its config, as Transformers' losses choose it.

    A problem type that the config leaves open is a regression for one label, else one of the
    labels.
    """
    if config.problem_type is None:
        return "none" if config.num_labels == 1 else "softmax"
    return _ACTIVATIONS[config.problem_type]


def _encoder(path: str, kind: Any) -> torch.nn.Module:
    """Return the encoder in float32, without its unused head on the first token."""
    model, report = _read(path, kind, use_safetensors=True, output_loading_info=True)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    _refuse_missing({name for name in report["missing_keys"] if "pooler." not in name}, path)
    return model.float()


def _refuse_missing(names: Iterable[str], path: str) -> None:
    # Transformers initialises missing tensors randomly, and only logs it.
    missing = sorted(names)
    if missing:
        raise SourceError(
            f"hf:{path}: the weights lack {', '.join(missing[:5])} "
            f"({len(missing)} tensors); save the whole model with save_pretrained"
        )


def _refuse(source: ModelSource, fields: tuple[str, ...], takes: str) -> None:
    for name in fields:
        if getattr(source, name) not in (None, ()):
            raise SourceError(f"{source.source} {takes}; remove model.{name}")


def _text(
    path: str, source: ModelSource, model: Any, module: torch.nn.Module, transformers: Any
) -> tuple[TextInput, dict[str, bytes]]:
    """Return the tokenization of texts, and its file for the artifact.

    ``module``: the wrapped ``model``. SourceError if padding changes its answers.
    """
    tokenizer = _read(path, transformers.AutoTokenizer)
    text = source.text or _text_input(model.config, tokenizer)
    file = _tokenizer_json(tokenizer, path, text.max_length)
    if model.config.pad_token_id is None:  # GPT-2 reads it to find the last token of a text
        model.config.pad_token_id = tokenizer.pad_token_id
    require_ignored_padding(module, tokenizer, text.max_length, f"hf:{path}")
    return text, {TOKENIZER_FILE: file}


def _file(path: str, name: str, transformers: Any) -> bytes | None:
    """Return a file of the directory or repository, or None."""
    try:
        location = transformers.utils.cached_file(
            path, name, _raise_exceptions_for_missing_entries=False
        )
        return None if location is None else Path(location).read_bytes()
    except OSError as error:
        raise SourceError(f"hf:{path}: {name} cannot be read: {error}") from error


def _token_specs(text: TextInput) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, datatype="INT64", shape=(BATCH, text.max_length))
        for name in ("input_ids", "attention_mask")
    )


def _text_input(config: Any, tokenizer: Any) -> TextInput:
    """Return the default length, limited to the model's own maximum."""
    stated = (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
    # XLNet, which has no maximum, states -1.
    lengths = [length for length in stated if isinstance(length, int) and length > 0]
    return TextInput(max_length=min([TextInput().max_length, *lengths]))


def _tokenizer_json(tokenizer: Any, path: str, max_length: int) -> bytes:
    if not tokenizer.is_fast:
        raise SourceError(
            f"hf:{path}: {type(tokenizer).__name__} has no tokenizer.json; convert it to a fast "
            f"tokenizer and save that beside the model"
        )
    if tokenizer.pad_token_id is None:
        raise SourceError(
            f"hf:{path}: the tokenizer has no padding token, so texts cannot be batched; set "
            f"pad_token and save it beside the model"
        )
    backend = tokenizer.backend_tokenizer
    # Padding token and side are stored in another file; with them, tokenizer.json suffices.
    backend.enable_padding(
        pad_id=tokenizer.pad_token_id,
        pad_token=tokenizer.pad_token,
        direction=tokenizer.padding_side,
    )
    backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
    return backend.to_str().encode("utf-8")
