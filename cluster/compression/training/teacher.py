"""Teachers of a distillation: a PyTorch module, or the compiled program of an artifact.

    Distill.teacher ─┬─ null     → the baseline           ┐
                     ├─ model    → cluster.models         ├→ ModuleTeacher   outputs, features
                     └─ artifact → store, cluster.program → ProgramTeacher   outputs

A teacher that does not fit is refused before any training. Teachers are picklable: every process
of a data-parallel training has its own copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from cluster.activation import OutputActivation
from cluster.artifact.artifact import Artifact
from cluster.artifact.store import ArtifactStore
from cluster.compression.training.descent import layout_of
from cluster.compression.training.features import captured
from cluster.compression.work import Job
from cluster.config import steps
from cluster.config.sources import ImageInput, ModelSource, TextInput
from cluster.data import load_data
from cluster.errors import CompressionError
from cluster.models import load_model
from cluster.program.node import cpus, targets
from cluster.program.program import Program, load
from cluster.tensors import TensorSpec


class Teacher(Protocol):
    """Model whose outputs the student learns."""

    def answer(
        self, inputs: Sequence[torch.Tensor], layers: Sequence[str]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return outputs float32 ``[N, classes]`` and those of ``layers`` by name, no gradients."""


@dataclass
class ModuleTeacher:
    """Teacher that is a module in eval mode."""

    module: torch.nn.Module
    one_by_one: bool = False
    """Whether each item is run alone."""

    def answer(
        self, inputs: Sequence[torch.Tensor], layers: Sequence[str]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.one_by_one and len(inputs[0]) > 1:
            items = zip(*(tensor.split(1) for tensor in inputs), strict=True)
            answers = [self.answer(item, layers) for item in items]
            return torch.cat([outputs for outputs, _ in answers]), {
                name: torch.cat([features[name] for _, features in answers])
                for name in answers[0][1]
            }
        self.module.to(inputs[0].device).to(memory_format=layout_of(self.module))
        with torch.no_grad(), captured(self.module, layers) as features:
            return self.module(*inputs).float(), features


@dataclass
class ProgramTeacher:
    """Teacher that is an artifact's program, loaded at the first batch; it has no layers."""

    store: ArtifactStore
    artifact: str
    _program: Program | None = field(default=None, init=False, repr=False)

    def answer(
        self, inputs: Sequence[torch.Tensor], layers: Sequence[str]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self._program is None:
            # The training's device: other GPUs of the node may be in use by others.
            on_cpu = inputs[0].device.type == "cpu"
            usable = [name for name in targets() if not (on_cpu and name.startswith("cuda"))]
            self._program = load(self.store.open(self.artifact), cpus(), usable)
        (outputs,) = self._program.run([tensor.cpu().contiguous().numpy() for tensor in inputs])
        return torch.from_numpy(outputs).to(inputs[0].device), {}

    def __getstate__(self) -> dict[str, object]:
        # Compiled code stays in the process that loaded it; another process loads it again.
        return {**self.__dict__, "_program": None}


def open_teacher(
    chosen: steps.TeacherSource | None, job: Job, inputs: tuple[TensorSpec, ...], outputs: int
) -> Teacher:
    """Return the teacher for a student with ``inputs`` and ``outputs`` numbers per item.

    CompressionError if its inputs, their preprocessing or its number of classes differ, or if it
    has the data's classes in another order. SourceError or ArtifactError if it cannot be read.
    """
    if chosen is None:
        alone = job.recipe.model.max_batch_size == 1
        return ModuleTeacher(job.baseline().eval(), one_by_one=alone)
    labels = load_data(job.recipe.data, job.seed).labels
    student = _Interface(inputs, job.recipe.model.image, labels, outputs, job.model.activation)
    if chosen.model is not None:
        return _from_model(chosen.model, job, student)
    artifact = job.store.open(chosen.artifact or "")
    return _from_artifact(artifact, job, student)


@dataclass(frozen=True)
class _Interface:
    """Inputs and outputs of a model, the student or a teacher."""

    inputs: tuple[TensorSpec, ...]
    preprocess: ImageInput | TextInput | None
    labels: tuple[str, ...]
    outputs: int
    activation: OutputActivation


def _from_model(source: ModelSource, job: Job, student: _Interface) -> Teacher:
    name = source.source
    kind = name.partition(":")[0]
    if kind == "torchvision" and source.weights is None:
        raise CompressionError(
            f"the teacher {name} has random weights, from which a student learns nothing; give "
            "teacher.model.weights"
        )
    source = source.with_inputs_of(job.recipe.model)
    # Weights with their own head keep it: a new, random head of the right size would teach noise.
    own_head = kind == "hf" or (source.weights is not None and not Path(source.weights).is_file())
    loaded = load_model(source, () if own_head else student.labels)
    classes = loaded.outputs[0].shape[1]
    interface = _Interface(
        loaded.inputs, loaded.preprocess, loaded.labels, classes, loaded.activation
    )
    _check(name, interface, student)
    return ModuleTeacher(loaded.module, one_by_one=source.max_batch_size == 1)


def _from_artifact(artifact: Artifact, job: Job, student: _Interface) -> Teacher:
    manifest = artifact.manifest
    classes = manifest.outputs[0].shape[1]
    interface = _Interface(
        manifest.inputs,
        manifest.image or manifest.text,
        manifest.labels,
        classes,
        manifest.activation,
    )
    _check(f"artifact {manifest.name}", interface, student)
    return ProgramTeacher(job.store, artifact.id or manifest.name)


def _check(name: str, teacher: _Interface, student: _Interface) -> None:
    if teacher.outputs != student.outputs:
        raise CompressionError(
            f"the teacher {name} has {teacher.outputs} classes, the student "
            f"{student.outputs}; choose a teacher that was trained for these {student.outputs}"
        )
    if teacher.activation != student.activation:
        raise CompressionError(
            f"the teacher {name} has the activation {teacher.activation}, the student "
            f"{student.activation}: their outputs differ in meaning; set model.activation or "
            "teacher.model.activation, or choose another teacher"
        )
    if [*map(_shape, teacher.inputs)] != [*map(_shape, student.inputs)]:
        raise CompressionError(
            f"the teacher {name} takes {_describe(teacher.inputs)}, the student "
            f"{_describe(student.inputs)}; both get the same batches, so give teacher.model.image, "
            "text or tensor the student's sizes, or choose another teacher"
        )
    images = (teacher.preprocess, student.preprocess)
    if isinstance(images[0], ImageInput) and isinstance(images[1], ImageInput):
        theirs, ours = _scales(images[0]), _scales(images[1])
        if theirs != ours:
            raise CompressionError(
                f"the teacher {name} takes images with {theirs}, the student {ours}; both get the "
                "same batches, so give model.image the teacher's mean, std and channel_order"
            )
    labels, data = teacher.labels, student.labels
    if labels != data and sorted(labels) == sorted(data):
        index = next(i for i in range(len(labels)) if labels[i] != data[i])
        raise CompressionError(
            f"class {index} is {labels[index]!r} for the teacher {name} but {data[index]!r} in the "
            "data: the same labels in another order; put the data's classes in the teacher's order"
        )


def _shape(spec: TensorSpec) -> tuple[str, tuple[int, ...]]:
    return spec.datatype, spec.shape


def _describe(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.datatype}{list(spec.shape)}" for spec in specs)


def _scales(image: ImageInput) -> str:
    return f"mean and std {list(image.mean)} and {list(image.std)}, {image.channel_order}"
