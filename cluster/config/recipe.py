"""The recipe: which model, which data, which steps, and what the result must reach."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config.base import MODEL_NAME, Config


class ImageInput(Config):
    """How an image file becomes the model's input tensor ``[batch, channels, height, width]``."""

    size: int = Field(
        default=224, ge=8, le=4096, description="Height and width of the tensor, in pixels."
    )
    resize: int | None = Field(
        default=None,
        ge=8,
        le=4096,
        description="Shorter side after resizing and before the centre crop to `size`, in pixels; "
        "null resizes the whole image to `size` × `size` without a crop.",
    )
    channels: Literal[1, 3] = Field(default=3, description="1 for grey images, 3 for RGB.")
    mean: tuple[float, ...] = Field(
        default=(0.485, 0.456, 0.406),
        description="Subtracted from each channel after scaling to 0..1; one value per channel.",
    )
    std: tuple[float, ...] = Field(
        default=(0.229, 0.224, 0.225),
        description="Each channel is divided by it; one positive value per channel.",
    )

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> ImageInput:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(
                    f"{name} has {len(values)} values, expected one per channel: {self.channels}"
                )
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std is {list(self.std)}, every value must be positive")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize={self.resize} must be at least size={self.size}")
        return self


class TextInput(Config):
    """How a text becomes ``input_ids`` and ``attention_mask``, both ``[batch, max_length]``."""

    max_length: int = Field(
        default=128, ge=2, le=8192, description="Tokens per text; shorter ones are padded."
    )


class TensorInput(Config):
    """Inputs that clients send as ready tensors; nothing is preprocessed."""

    name: str = Field(default="input", min_length=1, description="Name of the input tensor.")
    datatype: Literal["FP32", "INT64", "INT32", "UINT8"] = Field(
        default="FP32", description="Datatype of the input tensor."
    )
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        description="Shape of one item, without the batch dimension."
    )


class ModelSource(Config):
    """Where the model comes from and what it takes."""

    source: str = Field(
        description="torchvision:NAME, hf:PATH_OR_ID, or python:module:factory (a function "
        "returning an nn.Module)."
    )
    weights: str | None = Field(
        default=None,
        description="A torchvision weights name such as IMAGENET1K_V1, or a checkpoint file "
        "(.safetensors, or a .pt/.pth holding tensors only); null leaves the model as built.",
    )
    num_classes: int | None = Field(
        default=None,
        ge=2,
        description="Classes of the head; null takes the number of labels of the data.",
    )
    image: ImageInput | None = Field(
        default=None, description="Image preprocessing; null takes what the source defines."
    )
    text: TextInput | None = Field(default=None, description="Tokenizing, for hf text models.")
    tensor: TensorInput | None = Field(
        default=None, description="A plain tensor input, for models without preprocessing."
    )

    @field_validator("source")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        return _source_kind(value, ("torchvision", "hf", "python"))

    @model_validator(mode="after")
    def _one_input(self) -> ModelSource:
        given = [name for name in ("image", "text", "tensor") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one kind of input, not {' and '.join(given)}")
        return self


class DataSource(Config):
    """Labelled samples: for training, calibration and evaluation."""

    source: str = Field(
        default="digits",
        description="digits, imagefolder:PATH, safetensors:PATH, or python:module:factory.",
    )
    test_source: str | None = Field(
        default=None,
        description="Held-out samples from a source of their own; null splits `source`.",
    )
    test_share: float = Field(
        default=0.2, gt=0, lt=1, description="Share of `source` held out when it is split, 0..1."
    )
    limit: int | None = Field(
        default=None, ge=1, description="At most this many samples of each split."
    )

    @field_validator("source", "test_source")
    @classmethod
    def _known_kind(cls, value: str | None) -> str | None:
        if value is None or value == "digits":
            return value
        return _source_kind(value, ("imagefolder", "safetensors", "python"), also="digits")


def _source_kind(value: str, kinds: tuple[str, ...], also: str | None = None) -> str:
    kind, _, rest = value.partition(":")
    forms = [f"{kind}:..." for kind in kinds] + ([also] if also else [])
    if kind not in kinds or not rest:
        raise ValueError(f"{value!r} is not one of {', '.join(forms)}")
    if kind == "python" and not re.fullmatch(r"[\w.]+:[\w.]+", rest):
        raise ValueError(f"{value!r} must read python:module:factory")
    return value


# ---------------------------------------------------------------------------- steps


class Train(Config):
    """Train or fine-tune the classifier by gradient descent with a cosine learning rate."""

    kind: Literal["train"]
    epochs: int = Field(default=5, ge=1, description="Passes over the training samples.")
    batch_size: int = Field(default=64, ge=1, description="Samples per update.")
    loss: Literal["cross_entropy", "mse"] = Field(
        default="cross_entropy",
        description="cross_entropy on the logits, or mse between softmax and one-hot labels.",
    )
    optimizer: Literal["sgd", "adamw"] = Field(
        default="sgd", description="sgd (with Nesterov momentum 0.9) or adamw."
    )
    learning_rate: float = Field(default=0.05, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(default=5e-4, ge=0, description="Weight decay coefficient.")
    warmup_share: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the updates spent in linear warm-up, 0..1."
    )


class Quantize(Config):
    """Store and compute with fewer bits."""

    kind: Literal["quantize"]
    scheme: Literal["static_int8", "bf16"] = Field(
        description="static_int8: int8 weights and activations, calibrated, for x86. "
        "bf16: bfloat16 weights and activations."
    )
    calibration_samples: int = Field(
        default=128, ge=1, description="Training samples that set the activation ranges (int8)."
    )


Step = Annotated[Train | Quantize, Field(discriminator="kind")]


# ---------------------------------------------------------------------------- evaluation, gate


class Evaluation(Config):
    """How the finished artifact is measured against the baseline, in a fresh process."""

    samples: int | None = Field(
        default=None, ge=1, description="Held-out samples for accuracy; null takes all."
    )
    repeats: int = Field(
        default=100,
        ge=5,
        description="Timed runs per batch size, baseline and artifact in turn; a p99 needs 100.",
    )
    compute_threads: int = Field(
        default=1, ge=1, description="CPU threads that both compute with, as a replica would."
    )


class Gate(Config):
    """What a build must reach to become servable; a null limit is not checked."""

    max_accuracy_drop: float | None = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Baseline accuracy minus the artifact's, as a share (0.02 = 2 points).",
    )
    min_speedup: float | None = Field(
        default=1.0, gt=0, description="Baseline latency over the artifact's, at batch 1 (p50)."
    )
    max_bytes: int | None = Field(
        default=None, ge=1, description="Size of the program that was measured, in bytes."
    )


class ProgramBuild(Config):
    """One compiled program to build."""

    kind: Literal["aoti"] = Field(
        default="aoti", description="aoti: AOTInductor, native code with a dynamic batch."
    )
    target: Literal["cpu-x86"] = Field(
        default="cpu-x86", description="What the program runs on: cpu-x86, this node's CPU."
    )


class Recipe(Config):
    """What the compression job does, from the model's source to the artifact."""

    name: str = Field(pattern=MODEL_NAME, description="Name the artifact gets in the store.")
    model: ModelSource = Field(description="The model.")
    data: DataSource = Field(default=DataSource(), description="Labelled samples.")
    steps: tuple[Step, ...] = Field(default=(), description="What is done to the model, in order.")
    evaluation: Evaluation = Field(default=Evaluation(), description="How the result is measured.")
    gate: Gate = Field(default=Gate(), description="What the result must reach.")
    programs: tuple[ProgramBuild, ...] = Field(
        default=(ProgramBuild(),), min_length=1, description="The programs to compile."
    )
    seed: int = Field(default=0, ge=0, description="Seed of every random choice.")

    def located(self, directory: Path) -> Recipe:
        """The same recipe with relative paths taken from ``directory``, where its file lies.

        What is no path there, such as ``weights: IMAGENET1K_V1`` or a hub id, stays as it is.
        """
        model, data = self.model, self.data
        kind, _, rest = model.source.partition(":")
        if kind == "hf" and (directory / rest).is_dir():
            model = model.model_copy(update={"source": f"hf:{directory / rest}"})
        if model.weights is not None and (directory / model.weights).is_file():
            model = model.model_copy(update={"weights": str(directory / model.weights)})
        for name in ("source", "test_source"):
            kind, _, rest = (getattr(data, name) or "").partition(":")
            if kind in ("imagefolder", "safetensors"):
                data = data.model_copy(update={name: f"{kind}:{directory / rest}"})
        return self.model_copy(update={"model": model, "data": data})

    @model_validator(mode="after")
    def _steps_in_order(self) -> Recipe:
        quantized = next((i for i, step in enumerate(self.steps) if step.kind == "quantize"), None)
        if quantized is not None and quantized != len(self.steps) - 1:
            raise ValueError(
                f"steps[{quantized}] quantizes and must be the last step: steps[{quantized + 1}] "
                f"({self.steps[quantized + 1].kind}) cannot change a quantized model"
            )
        targets = [program.target for program in self.programs]
        if len(set(targets)) != len(targets):
            raise ValueError(f"programs name a target twice: {targets}")
        return self
