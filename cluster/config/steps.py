"""Steps of a recipe: one class per kind, with all of its settings.

    train | prune | distill | quantize | replace_activation → Step, chosen by ``kind``

Losses, optimizers, importances, schemes and activations are tables in `cluster.compression`, with a
formula and its source for each entry.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config.base import Config, refuse_unused
from cluster.config.sources import ModelSource

Activation = Literal[
    "relu",
    "relu6",
    "leaky_relu",
    "gelu",
    "gelu_tanh",
    "sigmoid",
    "hardsigmoid",
    "tanh",
    "hardtanh",
    "silu",
    "hardswish",
    "elu",
    "mish",
]

LayerPatterns = tuple[Annotated[str, Field(min_length=1)], ...]
"""Names of layers as in ``named_modules()``; ``*`` and ``?`` match as in a shell."""


class Fit(Config):
    """Gradient descent: duration, learning rate and optimizer."""

    epochs: int = Field(default=5, ge=1, description="Passes over the training samples.")
    updates: int | None = Field(
        default=None, ge=1, description="Stop after so many updates, even within an epoch."
    )
    batch_size: int = Field(default=64, ge=1, description="Samples per update, all processes.")
    optimizer: Literal["sgd", "adamw"] = Field(
        default="sgd", description="sgd (gradient descent with Nesterov momentum) or adamw."
    )
    learning_rate: float = Field(default=0.05, gt=0, description="Peak learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd: momentum, 0..1.")
    weight_decay: float = Field(default=5e-4, ge=0, description="Weight decay coefficient.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="Decay of the learning rate from its peak to 0; or constant."
    )
    warmup_share: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the updates spent in linear warm-up, 0..1."
    )
    augmentation: tuple[Literal["flip", "crop"], ...] = Field(
        default=(),
        description="For image inputs. flip: mirror images at random. crop: shift by up to an "
        "eighth of the image, with zeros at the edges.",
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
        description="Ray actors of data-parallel training: on GPUs if each has its own, else on "
        "CPUs.",
    )

    @model_validator(mode="after")
    def _fields_of_the_optimizer(self) -> Fit:
        refuse_unused(self, "optimizer", momentum=("sgd",))
        return self


class Train(Fit):
    """Train or fine-tune the model on the labels."""

    kind: Literal["train"]
    loss: Literal["cross_entropy", "mse"] = Field(
        default="cross_entropy",
        description="cross_entropy on the logits, of independent labels the binary one; or mse "
        "between probabilities and labels, or between numbers.",
    )


class Recovery(Fit):
    """Fine-tuning inside another step.

    It runs after each pruning iteration, or with fake-quantized weights (quantization-aware
    training).
    """

    epochs: int = Field(default=1, ge=1, description="Passes over the training samples.")
    learning_rate: float = Field(default=0.01, gt=0, description="Peak learning rate.")
    loss: Literal["cross_entropy", "mse"] = Field(
        default="cross_entropy",
        description="cross_entropy on the logits, of independent labels the binary one; or mse "
        "between probabilities and labels, or between numbers.",
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
        description="Share to remove, 0..1: of the weights (magnitude) or of the channels "
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
        "local removes the ratio from each layer.",
    )
    importance: Literal["magnitude", "taylor", "bn"] = Field(
        default="magnitude",
        description="structured: importance of a channel: the norm of its weights, the first-order "
        "Taylor expansion of the loss without it, or its batch normalization's scale.",
    )
    iterations: int = Field(
        default=1, ge=1, description="structured, magnitude: number of parts to reach the ratio."
    )
    recovery: Recovery | None = Field(
        default=None, description="Fine-tuning after each iteration; null: no training."
    )
    spare: LayerPatterns = Field(
        default=(), description="Layers that are not pruned; the head never is."
    )
    round_to: int = Field(
        default=8, ge=1, description="structured: numbers of channels become multiples of it."
    )
    recalibration_samples: int = Field(
        default=512,
        ge=0,
        description="Training samples for new statistics of batch normalization after pruning; 0 "
        "keeps the old ones.",
    )

    @model_validator(mode="after")
    def _fields_of_the_method(self) -> Prune:
        values = {"ratio": self.ratio, "speedup": self.speedup}
        allowed = {
            "magnitude": ({"ratio"},),
            "semi_structured": (set(),),
            "structured": ({"ratio"}, {"speedup"}),
        }[self.method]
        named = {name for name, value in values.items() if value is not None}
        if named not in allowed:
            forms = " or ".join(" and ".join(sorted(fields)) or "neither" for fields in allowed)
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
        "static_int8",
        "dynamic_int8",
        "weight_only_int8",
        "weight_only_int4",
        "bf16",
        "fp16",
        "float8",
    ] = Field(
        description="static_int8: int8 weights and activations, calibrated, for x86. "
        "dynamic_int8: int8 weights, activations by their range at run time, linear layers. "
        "weight_only_int8, weight_only_int4: linear weights alone. bf16, fp16: half precision. "
        "float8: linear layers, CUDA of compute capability 8.9 or more."
    )
    calibration: Literal["minmax", "histogram", "percentile"] = Field(
        default="histogram",
        description="static_int8: an activation's range: the full range of the samples, the range "
        "with the least squared error, or the range with `percentile` of the values.",
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
        description="Number of most sensitive layers that stay in bfloat16. At most 40 layers, "
        "evenly spread, are measured; the report names the others.",
    )
    training: Recovery | None = Field(
        default=None,
        description="Quantization-aware training (static_int8, dynamic_int8): fine-tune with "
        "weights and activations rounded as they will be; null quantizes after training.",
    )

    @model_validator(mode="after")
    def _fields_of_the_scheme(self) -> Quantize:
        mixed = ("static_int8", "dynamic_int8", "weight_only_int8", "weight_only_int4", "float8")
        aware = ("static_int8", "dynamic_int8")
        refuse_unused(self, "scheme", training=aware, keep=mixed, keep_most_sensitive=mixed)
        one = ("static_int8",)
        refuse_unused(self, "scheme", calibration=one, calibration_samples=one, percentile=one)
        refuse_unused(self, "calibration", percentile=("percentile",))
        return self


class DistillLoss(Config):
    """One term of the distillation loss."""

    name: Literal["kl", "cross_entropy", "mse", "feature_mse"] = Field(
        description="kl: between softened teacher and student probabilities. cross_entropy: with "
        "the labels. mse: between the outputs. feature_mse: between layers' outputs, projected "
        "where their sizes differ."
    )
    weight: float = Field(default=1.0, gt=0, description="Factor of this term in the sum.")
    temperature: float = Field(
        default=4.0, gt=0, description="kl: divisor of both outputs before softmax."
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


class TeacherSource(Config):
    """Teacher of a distillation: another model, or an artifact of the store."""

    model: ModelSource | None = Field(default=None, description="Any model source, with weights.")
    artifact: str | None = Field(default=None, description="Name or id of an artifact.")

    @model_validator(mode="after")
    def _one(self) -> TeacherSource:
        if (self.model is None) == (self.artifact is None):
            raise ValueError("give either model or artifact")
        return self


class Distill(Fit):
    """Train the model towards a teacher's outputs."""

    kind: Literal["distill"]
    teacher: TeacherSource | None = Field(
        default=None,
        description="null: the recipe's model before compression (the baseline), which teaches "
        "the pruned model.",
    )
    losses: tuple[DistillLoss, ...] = Field(
        default=(
            DistillLoss(name="kl", weight=0.9),
            DistillLoss(name="cross_entropy", weight=0.1),
        ),
        min_length=1,
        description="Terms of the weighted sum to minimize.",
    )


class ReplaceActivation(Config):
    """Replace one activation function by another, such as silu by hardswish."""

    kind: Literal["replace_activation"]
    old: Activation = Field(description="Function to replace.")
    new: Activation = Field(description="Replacement.")
    spare: LayerPatterns = Field(default=(), description="Modules that keep their function.")

    @field_validator("new")
    @classmethod
    def _another(cls, value: str, info: object) -> str:
        if value == getattr(info, "data", {}).get("old"):
            raise ValueError("old and new are the same; choose another function")
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
