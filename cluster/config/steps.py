"""The steps of a recipe: one class per kind, each with every knob it has.

    train | prune | distill | quantize | replace_activation → Step, told apart by ``kind``

The names are the field's own: losses, optimizers, importances, schemes and activations are
tables in `cluster.compression` with a formula and its source at each entry.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config.base import Config, refuse_unused
from cluster.config.sources import ModelSource

Activation = Literal[
    "relu", "relu6", "leaky_relu", "gelu", "gelu_tanh", "sigmoid", "hardsigmoid", "tanh",
    "hardtanh", "silu", "hardswish", "elu", "mish",
]  # fmt: skip

LayerPatterns = tuple[Annotated[str, Field(min_length=1)], ...]
"""Names of layers as ``named_modules()`` gives them; ``*`` and ``?`` match as in a shell."""


class Fit(Config):
    """Gradient descent: how long, how fast, and by which optimizer."""

    epochs: int = Field(default=5, ge=1, description="Passes over the training samples.")
    updates: int | None = Field(
        default=None, ge=1, description="Stop after so many updates, even within an epoch."
    )
    batch_size: int = Field(default=64, ge=1, description="Samples per update, all processes.")
    optimizer: Literal["sgd", "adamw"] = Field(
        default="sgd", description="sgd (gradient descent with Nesterov momentum) or adamw."
    )
    learning_rate: float = Field(default=0.05, gt=0, description="Peak learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd: its momentum, 0..1.")
    weight_decay: float = Field(default=5e-4, ge=0, description="Weight decay coefficient.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate falls from its peak to 0, or stays."
    )
    warmup_share: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the updates spent in linear warm-up, 0..1."
    )
    augmentation: tuple[Literal["flip", "crop"], ...] = Field(
        default=(),
        description="flip: images left-right at random. crop: shifted by up to an eighth of the "
        "image, edges filled with zeros. For image inputs.",
    )
    precision: Literal["float32", "bf16"] = Field(
        default="float32",
        description="bf16: convolutions and matrix products of the training compute in bfloat16 "
        "(automatic mixed precision), which CPUs with AVX512-BF16 or AMX and GPUs do about twice "
        "as fast. Weights, updates and losses stay float32.",
    )
    processes: int = Field(
        default=1,
        ge=1,
        description="Ray actors that train side by side, gradients averaged (data parallel): on "
        "GPUs if each finds one of its own, else on CPUs.",
    )

    @model_validator(mode="after")
    def _fields_of_the_optimizer(self) -> Fit:
        refuse_unused(self, "optimizer", momentum=("sgd",))
        return self


class Train(Fit):
    """Train or fine-tune the classifier on the labels."""

    kind: Literal["train"]
    loss: Literal["cross_entropy", "mse"] = Field(
        default="cross_entropy",
        description="cross_entropy on the logits, or mse between softmax and one-hot labels.",
    )


class Recovery(Fit):
    """Fine-tuning inside another step: after each pruning iteration, or with fake-quantized
    weights (quantization-aware training)."""

    epochs: int = Field(default=1, ge=1, description="Passes over the training samples.")
    learning_rate: float = Field(default=0.01, gt=0, description="Peak learning rate.")
    loss: Literal["cross_entropy", "mse"] = Field(
        default="cross_entropy",
        description="cross_entropy on the logits, or mse between softmax and one-hot labels.",
    )


class Prune(Config):
    """Remove weights, or whole channels and attention heads."""

    kind: Literal["prune"]
    method: Literal["magnitude", "semi_structured", "structured"] = Field(
        description="magnitude: the smallest weights become zero. semi_structured: two of every "
        "four weights become zero (2:4). structured: channels and attention heads are removed "
        "(heads of nn.MultiheadAttention all stay and become narrower)."
    )
    ratio: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share that is removed, 0..1: of the weights (magnitude) or of the channels "
        "(structured).",
    )
    speedup: float | None = Field(
        default=None,
        gt=1,
        description="structured: remove channels until the model needs this many times fewer "
        "multiply-accumulates; instead of ratio.",
    )
    scope: Literal["global", "local"] = Field(
        default="global",
        description="structured, magnitude: global compares weights or channels of all layers; "
        "local takes the ratio of each layer.",
    )
    importance: Literal["magnitude", "taylor", "bn"] = Field(
        default="magnitude",
        description="structured: what a channel is worth: the norm of its weights, the loss it "
        "would cost by a first-order Taylor expansion, or its batch normalization's scale.",
    )
    iterations: int = Field(
        default=1, ge=1, description="structured, magnitude: reach the ratio in so many parts."
    )
    recovery: Recovery | None = Field(
        default=None, description="Fine-tuning after each iteration; null trains nothing."
    )
    spare: LayerPatterns = Field(
        default=(), description="Layers that are left whole; the head always is."
    )
    round_to: int = Field(
        default=8, ge=1, description="structured: numbers of channels become multiples of it."
    )
    recalibration_samples: int = Field(
        default=512,
        ge=0,
        description="Training samples that batch normalization's statistics are taken from anew "
        "after pruning; 0 keeps the old ones.",
    )

    @model_validator(mode="after")
    def _fields_of_the_method(self) -> Prune:
        given = {"ratio": self.ratio, "speedup": self.speedup}
        wanted = {
            "magnitude": ({"ratio"},),
            "semi_structured": (set(),),
            "structured": ({"ratio"}, {"speedup"}),
        }[self.method]
        named = {name for name, value in given.items() if value is not None}
        if named not in wanted:
            forms = " or ".join(" and ".join(sorted(each)) or "neither" for each in wanted)
            raise ValueError(
                f"method {self.method} takes {forms} of ratio and speedup, got "
                f"{' and '.join(sorted(named)) or 'neither'}"
            )
        both, one = ("magnitude", "structured"), ("structured",)
        refuse_unused(self, "method", scope=both, iterations=both, importance=one, round_to=one)
        return self


class Quantize(Config):
    """Store and compute with fewer bits."""

    kind: Literal["quantize"]
    scheme: Literal[
        "static_int8", "dynamic_int8", "weight_only_int8", "weight_only_int4", "bf16", "fp16",
        "float8",
    ] = Field(
        description="static_int8: int8 weights and activations, calibrated, for x86. "
        "dynamic_int8: int8 weights, activations by their range at run time, linear layers. "
        "weight_only_int8, weight_only_int4: linear weights alone. bf16, fp16: half precision. "
        "float8: linear layers, CUDA of compute capability 8.9 or more."
    )  # fmt: skip
    calibration: Literal["minmax", "histogram", "percentile"] = Field(
        default="histogram",
        description="static_int8: how an activation's range follows from the samples: all of it, "
        "the range with the least squared error, or the range holding `percentile` of the values.",
    )
    percentile: float = Field(
        default=99.99,
        gt=50,
        le=100,
        description="calibration percentile: share of values inside, in percent.",
    )
    calibration_samples: int = Field(
        default=128,
        ge=1,
        description="static_int8: training samples that set the activation ranges.",
    )
    keep: LayerPatterns = Field(
        default=(), description="Layers that stay in bfloat16 (mixed precision)."
    )
    keep_most_sensitive: int = Field(
        default=0,
        ge=0,
        description="So many layers, those whose quantization alone costs most, stay in bfloat16. "
        "Of more than 40 layers 40 are judged, evenly spread; the report names the others.",
    )
    training: Recovery | None = Field(
        default=None,
        description="Quantization-aware training (static_int8, dynamic_int8): fine-tune with "
        "weights and activations rounded as they will be; null quantizes after training.",
    )

    @model_validator(mode="after")
    def _fields_of_the_scheme(self) -> Quantize:
        mixed = (
            "static_int8", "dynamic_int8", "weight_only_int8", "weight_only_int4", "float8"
        )  # fmt: skip
        aware = ("static_int8", "dynamic_int8")
        refuse_unused(self, "scheme", training=aware, keep=mixed, keep_most_sensitive=mixed)
        one = ("static_int8",)
        refuse_unused(self, "scheme", calibration=one, calibration_samples=one, percentile=one)
        refuse_unused(self, "calibration", percentile=("percentile",))
        return self


class DistillLoss(Config):
    """One term of the distillation loss."""

    name: Literal["kl", "cross_entropy", "mse", "feature_mse"] = Field(
        description="kl: between softened teacher and student outputs. cross_entropy: with the "
        "labels. mse: between the logits. feature_mse: between layers' outputs, projected where "
        "their sizes differ."
    )
    weight: float = Field(default=1.0, gt=0, description="Factor of this term in the sum.")
    temperature: float = Field(
        default=4.0, gt=0, description="kl: both outputs are divided by it before softmax."
    )
    student_layer: str | None = Field(
        default=None, description="feature_mse: name of the student's layer."
    )
    teacher_layer: str | None = Field(
        default=None, description="feature_mse: name of the teacher's layer."
    )

    @model_validator(mode="after")
    def _layers(self) -> DistillLoss:
        layers = (self.student_layer, self.teacher_layer)
        if self.name == "feature_mse" and None in layers:
            raise ValueError("feature_mse needs student_layer and teacher_layer")
        features = ("feature_mse",)
        refuse_unused(
            self, "name", temperature=("kl",), student_layer=features, teacher_layer=features
        )
        return self


class Teacher(Config):
    """Who teaches: a model of its own, or an artifact of the store."""

    model: ModelSource | None = Field(default=None, description="Any model source, with weights.")
    artifact: str | None = Field(default=None, description="Name or id of an artifact.")

    @model_validator(mode="after")
    def _one(self) -> Teacher:
        if (self.model is None) == (self.artifact is None):
            raise ValueError("give either model or artifact")
        return self


class Distill(Fit):
    """Train the model to answer as a teacher does."""

    kind: Literal["distill"]
    teacher: Teacher | None = Field(
        default=None,
        description="null: the recipe's own model as it was before compression (the baseline), "
        "which teaches what pruning has left of it.",
    )
    losses: tuple[DistillLoss, ...] = Field(
        default=(
            DistillLoss(name="kl", weight=0.9),
            DistillLoss(name="cross_entropy", weight=0.1),
        ),
        min_length=1,
        description="The terms whose weighted sum is minimized.",
    )


class ReplaceActivation(Config):
    """Put one activation function in another's place, such as hardswish for silu."""

    kind: Literal["replace_activation"]
    old: Activation = Field(description="The function that goes.")
    new: Activation = Field(description="The function that comes.")
    spare: LayerPatterns = Field(default=(), description="Modules that keep theirs.")

    @field_validator("new")
    @classmethod
    def _another(cls, value: str, info: object) -> str:
        if value == getattr(info, "data", {}).get("old"):
            raise ValueError("old and new are the same")
        return value


Step = Annotated[
    Train | Prune | Distill | Quantize | ReplaceActivation, Field(discriminator="kind")
]


def trains(step: Step) -> bool:
    """Return whether the step updates weights by gradient descent."""
    match step:
        case Train() | Distill():
            return True
        case Prune():
            return step.recovery is not None
        case Quantize():
            return step.training is not None
    return False
