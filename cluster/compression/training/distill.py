"""The ``distill`` step: train the student towards a teacher's outputs.

batch ─┬─ teacher → outputs, features ─┐
       └─ student → outputs, features ─┴→ Σ weight · loss → gradients of student, projections
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from cluster.activation import OutputActivation
from cluster.compression.layers import matching
from cluster.compression.training.features import FeatureMatch, captured
from cluster.compression.training.losses import DISTILLATION_LOSSES, LABEL_LOSSES
from cluster.compression.training.teacher import ModuleTeacher, Teacher, open_teacher
from cluster.compression.training.train import fit
from cluster.compression.work import Job, Work
from cluster.config.steps import Distill, DistillLoss
from cluster.errors import CompressionError

_FEATURES = "feature_mse"


@dataclass
class Distillation:
    """Objective of a distill step: the weighted sum of its terms.

    ``auxiliary`` has one :class:`FeatureMatch` per feature_mse term, in their order.
    """

    terms: tuple[DistillLoss, ...]
    teacher: Teacher
    activation: OutputActivation
    auxiliary: torch.nn.ModuleList = field(default_factory=torch.nn.ModuleList)

    def __call__(
        self, module: torch.nn.Module, inputs: Sequence[torch.Tensor], labels: torch.Tensor
    ) -> torch.Tensor:
        pairs = _layers(self.terms)
        targets, hints = self.teacher.answer(inputs, [teacher for _, teacher in pairs])
        with captured(module, [student for student, _ in pairs]) as features:
            outputs = module(*inputs).float()
        matches = iter(zip(self.auxiliary, pairs, strict=True))
        total = outputs.new_zeros(())
        for term in self.terms:
            if term.name == _FEATURES:
                match, (student, teacher) = next(matches)
                loss = match(features[student], hints[teacher])
            elif term.name in DISTILLATION_LOSSES:
                between = DISTILLATION_LOSSES[term.name][self.activation]
                loss = between(outputs, targets, term.temperature)
            else:
                loss = LABEL_LOSSES[term.name][self.activation](outputs, labels)
            total = total + term.weight * loss
        return total


def distill(work: Work, step: Distill, job: Job) -> Work:
    """Train the module in place towards the teacher and return it in eval mode.

    CompressionError, before any training, if the teacher does not fit the student, or if layers do
    not exist or cannot be compared.
    """
    module = work.module.eval()
    arrays, _ = job.train.batch([0, len(job.train) - 1])
    inputs = [torch.from_numpy(array) for array in arrays]
    with torch.no_grad():
        outputs = module(*inputs).shape[1]
    teacher = open_teacher(step.teacher, job, work.inputs, outputs)
    terms = _resolve_layers(step.losses, module, teacher)
    torch.manual_seed(job.seed)  # decides the projections' initial weights
    matches = _matches(terms, module, teacher, inputs)
    objective = Distillation(terms, teacher, job.model.activation, matches)
    fit(module, step, objective, job, "distill")
    return Work.of(module, work.inputs)


def _layers(terms: Sequence[DistillLoss]) -> list[tuple[str, str]]:
    """Return the student's and the teacher's layer of each feature_mse term."""
    return [
        (term.student_layer or "", term.teacher_layer or "")
        for term in terms
        if term.name == _FEATURES
    ]


def _resolve_layers(
    terms: tuple[DistillLoss, ...], student: torch.nn.Module, teacher: Teacher
) -> tuple[DistillLoss, ...]:
    """Return the terms with their layers' full names."""
    resolved = []
    for position, term in enumerate(terms):
        if term.name == _FEATURES:
            if not isinstance(teacher, ModuleTeacher):
                raise CompressionError(
                    f"losses[{position}]: feature_mse needs the teacher's layers, and an "
                    "artifact's program has none; give teacher.model instead of teacher.artifact"
                )
            where = f"losses[{position}]"
            term = term.model_copy(
                update={
                    "student_layer": _one(student, term.student_layer, f"{where}.student_layer"),
                    "teacher_layer": _one(
                        teacher.module, term.teacher_layer, f"{where}.teacher_layer"
                    ),
                }
            )
        resolved.append(term)
    return tuple(resolved)


def _one(module: torch.nn.Module, pattern: str | None, where: str) -> str:
    names = matching(module, (pattern or "",), where)
    if len(names) > 1:
        raise CompressionError(
            f"{where}: {pattern!r} matches {len(names)} layers ({', '.join(names[:5])}); name one"
        )
    return names[0]


def _matches(
    terms: tuple[DistillLoss, ...],
    student: torch.nn.Module,
    teacher: Teacher,
    inputs: Sequence[torch.Tensor],
) -> torch.nn.ModuleList:
    """Return a comparison for each pair of layers, sized by a first batch."""
    pairs = _layers(terms)
    _, hints = teacher.answer(inputs, [name for _, name in pairs])
    with torch.no_grad(), captured(student, [name for name, _ in pairs]) as features:
        student(*inputs)
    for owner, names, outputs in (
        ("student", [name for name, _ in pairs], features),
        ("teacher", [name for _, name in pairs], hints),
    ):
        for name in names:
            if name not in outputs:
                raise CompressionError(
                    f"the {owner}'s layer {name!r} does not run in the model's forward; name one "
                    "that does"
                )
    return torch.nn.ModuleList(
        FeatureMatch(features[layer], hints[hint], f"{layer} and {hint}") for layer, hint in pairs
    )
