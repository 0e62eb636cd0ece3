"""Activation functions by name, and the step that replaces one by another.

    ReplaceActivation(old, new) ─→ every module that computes `old` ─→ one that computes `new`

An activation can cost as much as the convolution before it, and smooth ones quantize badly. For
this reason Howard et al. 2019 replaced swish by hardswish. The weights were learnt with the old
function, so a training step should follow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from torch import nn

from cluster.compression.layers import matching
from cluster.compression.work import Job, Work
from cluster.config.steps import Activation, ReplaceActivation
from cluster.errors import CompressionError
from cluster.models import copy_of


def relu() -> nn.Module:
    """``max(0, x)`` (Nair and Hinton 2010, "Rectified Linear Units")."""
    return nn.ReLU()


def relu6() -> nn.Module:
    """``min(max(0, x), 6)`` (Krizhevsky 2010, "Convolutional Deep Belief Networks on CIFAR-10")."""
    return nn.ReLU6()


def leaky_relu() -> nn.Module:
    """``max(0, x) + 0.01 · min(0, x)`` (Maas et al. 2013, "Rectifier Nonlinearities")."""
    return nn.LeakyReLU()


def gelu() -> nn.Module:
    """``x · Φ(x)``, Φ the normal distribution's (Hendrycks and Gimpel 2016, "GELUs", ch. 2)."""
    return nn.GELU()


def gelu_tanh() -> nn.Module:
    """``x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))``: the same paper's approximation."""
    return nn.GELU(approximate="tanh")


def sigmoid() -> nn.Module:
    """``1 / (1 + e⁻ˣ)`` (Goodfellow et al. 2016, "Deep Learning", ch. 3.10)."""
    return nn.Sigmoid()


def hardsigmoid() -> nn.Module:
    """``min(max(0, x + 3), 6) / 6`` (Howard et al. 2019, "MobileNetV3", ch. 5.2)."""
    return nn.Hardsigmoid()


def tanh() -> nn.Module:
    """``(eˣ - e⁻ˣ) / (eˣ + e⁻ˣ)`` (LeCun et al. 1998, "Efficient BackProp", ch. 4.4)."""
    return nn.Tanh()


def hardtanh() -> nn.Module:
    """``min(max(-1, x), 1)`` (Collobert 2004, "Large Scale Machine Learning", ch. 5)."""
    return nn.Hardtanh()


def silu() -> nn.Module:
    """``x / (1 + e⁻ˣ)`` (Elfwing et al. 2017; swish in Ramachandran et al. 2017)."""
    return nn.SiLU()


def hardswish() -> nn.Module:
    """``x · min(max(0, x + 3), 6) / 6`` (Howard et al. 2019, "MobileNetV3", ch. 5.2)."""
    return nn.Hardswish()


def elu() -> nn.Module:
    """``x`` where positive, else ``eˣ - 1`` (Clevert et al. 2015, "ELUs", eq. 15)."""
    return nn.ELU()


def mish() -> nn.Module:
    """``x · tanh(ln(1 + eˣ))`` (Misra 2019, "Mish", eq. 1)."""
    return nn.Mish()


ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": relu,
    "relu6": relu6,
    "leaky_relu": leaky_relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "sigmoid": sigmoid,
    "hardsigmoid": hardsigmoid,
    "tanh": tanh,
    "hardtanh": hardtanh,
    "silu": silu,
    "hardswish": hardswish,
    "elu": elu,
    "mish": mish,
}

_OF_TRANSFORMERS: dict[str, Activation] = {
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "AccurateGELUActivation": "gelu_tanh",
    "SiLUActivation": "silu",
    "MishActivation": "mish",
}
"""Classes of transformers by name, so that models without them do not import it."""


def name_of(part: nn.Module) -> Activation | None:
    """Return the name of the module's activation, for any slope; None for other modules."""
    if isinstance(part, nn.GELU):
        return "gelu_tanh" if part.approximate == "tanh" else "gelu"
    by_type = {type(make()): name for name, make in ACTIVATIONS.items() if "gelu" not in name}
    # By the exact type: ReLU6 is a kind of Hardtanh.
    return by_type.get(type(part)) or _OF_TRANSFORMERS.get(type(part).__name__)


def replace(work: Work, step: ReplaceActivation, job: Job) -> Work:
    """Replace ``step.old`` by ``step.new`` in a copy of the model, except in ``step.spare``.

    CompressionError if a pattern matches no module, or no module computes ``step.old``. A function
    that ``forward`` calls without a module (``functional.relu``) cannot be replaced.
    """
    module = copy_of(work.module)
    replaced = substitute(module, step.old, step.new, step.spare)
    job.details["replaced"] = list(replaced)
    job.out(f"replace  {step.old} by {step.new} in {len(replaced)} places")
    return Work.of(module, work.inputs)


def substitute(
    module: nn.Module, old: Activation, new: Activation, spare: Sequence[str] = ()
) -> tuple[str, ...]:
    """Replace the modules that compute ``old``, in place; return their names.

    The weights do not show the change, so a rebuilt model needs it again.
    """
    spared = set(matching(module, spare, "spare"))
    # A module used in several places counts, and may be spared, in each of them.
    places = {name: part for name, part in module.named_modules(remove_duplicate=False) if name}
    chosen = [name for name, part in places.items() if name_of(part) == old]
    if not chosen:
        known = Counter(str(kind) for part in places.values() if (kind := name_of(part)))
        raise CompressionError(
            f"replace_activation: no module of the model computes {old}; its modules compute "
            f"{', '.join(f'{name} ({count})' for name, count in known.items()) or 'none by name'}. "
            f"Functions that forward calls directly cannot be replaced: make them modules"
        )
    replaced = tuple(name for name in chosen if name not in spared)
    if not replaced:
        raise CompressionError(
            f"replace_activation: spare keeps all {len(chosen)} modules that compute {old}; spare "
            "fewer, or remove the step"
        )
    for name in replaced:
        parent, _, attribute = name.rpartition(".")
        activation = ACTIVATIONS[new]().train(module.training)
        setattr(module.get_submodule(parent), attribute, activation)
    return replaced
