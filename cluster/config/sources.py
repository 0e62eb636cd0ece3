"""Sources of the model and its data, and the model's inputs."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.activation import OutputActivation
from cluster.config.base import Config


class ImageInput(Config):
    """Preprocessing of image files to the input tensor ``[batch, channels, height, width]``.

    The defaults of ``interpolation`` and the fields after it are what artifacts without them mean.
    """

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
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(
        default="bilinear", description="Interpolation of resizing."
    )
    antialias: bool = Field(
        default=True,
        description="Smooth before an image is made smaller, as Pillow always does. false reads "
        "the 2 × 2 (bilinear) or 4 × 4 (bicubic) nearest pixels, as OpenCV does.",
    )
    resampling: Literal["pillow", "torch"] = Field(
        default="pillow",
        description="Library whose resizing is reproduced: Pillow's of PIL images, or torch's of "
        "tensors, as in Transformers. They differ in the rounding of a few pixels.",
    )
    keep_aspect: bool = Field(
        default=True,
        description="With `resize`: keep the image's proportions. false resizes the whole image "
        "to `resize` × `resize` before the centre crop.",
    )
    crop_offset: Literal["nearest", "down"] = Field(
        default="nearest",
        description="Rounding of half a pixel in the crop's position: to even as in torchvision, "
        "or down as in Transformers.",
    )
    channel_order: Literal["rgb", "bgr"] = Field(
        default="rgb", description="Order of the channels, also in `mean` and `std`."
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

    @model_validator(mode="after")
    def _consistent(self) -> ImageInput:
        if self.interpolation == "lanczos" and not self.antialias:
            raise ValueError("interpolation lanczos needs antialias: true; or use bicubic")
        if self.resize is None and not self.keep_aspect:
            raise ValueError("keep_aspect: false needs resize; without it no aspect is kept")
        if self.channel_order == "bgr" and self.channels == 1:
            raise ValueError("channel_order bgr needs channels: 3")
        return self


class TextInput(Config):
    """Tokenizing of texts to ``input_ids`` and ``attention_mask``, both ``[batch, max_length]``."""

    max_length: int = Field(
        default=128, ge=2, le=8192, description="Tokens per text; shorter ones are padded."
    )


class TensorInput(Config):
    """Input that clients send as a tensor, without preprocessing."""

    name: str = Field(default="input", min_length=1, description="Name of the input tensor.")
    datatype: Literal["FP32", "INT64", "INT32", "UINT8"] = Field(
        default="FP32", description="Datatype of the input tensor."
    )
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        description="Shape of one item, without the batch dimension."
    )


class ModelSource(Config):
    """Source of the model, and its inputs."""

    source: str = Field(
        description="torchvision:NAME, hf:PATH_OR_ID (hf:package:NAME/FOLDER for a folder inside "
        "an installed package), or python:module:factory (a function returning an nn.Module)."
    )
    weights: str | None = Field(
        default=None,
        description="A torchvision weights name such as IMAGENET1K_V1, or a checkpoint file "
        "(.safetensors, or a .pt/.pth holding tensors only); null leaves the model as built.",
    )
    num_classes: int | None = Field(
        default=None,
        ge=1,
        description="Outputs of the head; null: the number of labels of the data.",
    )
    activation: OutputActivation | None = Field(
        default=None,
        description="Meaning of the output, which the model returns without it. softmax: one of "
        "the labels. sigmoid: each label by itself, or none of them. none: numbers, as of a "
        "regression. null: as the source says, else softmax.",
    )
    image: ImageInput | None = Field(
        default=None, description="Image preprocessing; null: as the source defines."
    )
    text: TextInput | None = Field(default=None, description="Tokenizing, for hf text models.")
    tensor: TensorInput | None = Field(
        default=None, description="A plain tensor input, for models without preprocessing."
    )
    tensors: tuple[TensorInput, ...] = Field(
        default=(),
        description="Several tensor inputs in place of `tensor`, in the order of forward's "
        "parameters, with distinct names.",
    )
    max_batch_size: Literal[1] | None = Field(
        default=None,
        description="1: programs and servers run one item at a time, for a model whose answer to "
        "an item depends on its batch. null: batches of any size; a model that computes an item "
        "from the rest of its batch is refused.",
    )

    def with_inputs_of(self, student: ModelSource) -> ModelSource:
        """Return this source as a teacher of ``student``.

        A factory without inputs in its config gets the student's.
        """
        if self._inputs or not self.source.startswith("python:"):
            return self
        return self.model_copy(
            update={"image": student.image, "tensor": student.tensor, "tensors": student.tensors}
        )

    @property
    def _inputs(self) -> list[str]:
        """Names of the fields that declare inputs."""
        return [name for name in ("image", "text", "tensor", "tensors") if getattr(self, name)]

    @field_validator("source")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        return _source_kind(value, ("torchvision", "hf", "python"))

    @model_validator(mode="after")
    def _one_input(self) -> ModelSource:
        if len(self._inputs) > 1:
            raise ValueError(f"give one kind of input, not {' and '.join(self._inputs)}")
        names = [tensor.name for tensor in self.tensors]
        if len(set(names)) < len(names):
            raise ValueError(f"tensors are called {', '.join(names)}; give each its own name")
        return self


class DataSource(Config):
    """Labelled samples: for training, calibration and evaluation."""

    source: str = Field(
        default="digits",
        description="digits, imagefolder:PATH, safetensors:PATH, or python:module:factory.",
    )
    test_source: str | None = Field(
        default=None,
        description="Separate source of held-out samples; null splits `source`.",
    )
    test_share: float = Field(
        default=0.2, gt=0, lt=1, description="Share of `source` held out when it is split, 0..1."
    )
    limit: int | None = Field(
        default=None, ge=1, description="Maximum number of samples of each split."
    )
    max_unreadable: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="Largest share of samples whose files may be unreadable, 0..1: these are named "
        "and left out. If there are more, the job ends before it computes anything.",
    )
    validation_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the training samples reserved for validation, 0..1: steps are "
        "measured and a search chooses on them. At most 2000 samples.",
    )
    validation_from: Literal["training", "held_out"] = Field(
        default="training",
        description="Origin of the validation samples. held_out: for weights that were already "
        "trained on the training samples, on which their score would be too high. These samples "
        "are excluded from the final evaluation.",
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
