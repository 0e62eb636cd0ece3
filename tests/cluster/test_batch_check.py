"""Users' modules at load: what makes an answer depend on more than its item, and what may stay."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cluster.config.sources import ModelSource
from cluster.errors import SourceError
from cluster.models import LoadedModel, batch_check, copy_of, load_model
from cluster.tensors import TensorSpec

SPEC = TensorSpec(name="input", datatype="FP32", shape=(-1, 8))
NEITHER = "serving needs one answer to one input"
BY_BATCH = r"or set model\.max_batch_size: 1"


class Net(nn.Module):
    """Two layers, with a function between them that a test chooses."""

    def __init__(self, between: Callable[..., torch.Tensor] | None = None, **parts: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 5)
        self.between = between
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(x if self.between is None else self.between(self, x))


def image(x: torch.Tensor) -> torch.Tensor:
    """Return ``[N, C]`` as images ``[N, C, 2, 2]`` that are not constant."""
    return x[:, :, None, None] * torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def in_training(net: Net, x: torch.Tensor) -> torch.Tensor:
    return net.norm.train()(image(x)).mean((2, 3))


def counted(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.count += 1
    return x + net.count


def remembered(net: Net, x: torch.Tensor) -> torch.Tensor:
    if net.kept is None:
        net.kept = x.mean()
    return x - net.kept


def registered(net: Net, x: torch.Tensor) -> torch.Tensor:
    if not hasattr(net, "kept"):
        net.register_buffer("kept", x.mean())
    return x - net.kept


def averaged(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.mean = 0.9 * net.mean + 0.1 * x.mean()
    return x - net.mean


def positions(net: Net, x: torch.Tensor) -> torch.Tensor:
    if net.kept is None:
        net.kept = torch.arange(16).float().cos()
    return x * net.kept


def check(module: nn.Module, **settings: Any) -> None:
    batch_check.check(module.eval(), (SPEC,), "net", **settings)


def normalized(net: Net, x: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(image(x), None, None, training=True).amax((2, 3))


MIXING = {
    "batch scaled": (Net(lambda net, x: (x - x.mean()) / x.std()), "in forward of Net"),
    "batch centred": (Net(lambda net, x: x - x.mean(0)), "in forward of Net"),
    "largest value": (Net(lambda net, x: x / x.abs().max().clamp(1)), "in forward of Net"),
    "sorted": (Net(lambda net, x: x.sort(0).values), "in forward of Net"),
    "summed": (Net(lambda net, x: x.cumsum(0)), "in forward of Net"),
    "rolled": (Net(lambda net, x: x.roll(1, 0)), "in forward of Net"),
    "reversed": (Net(lambda net, x: x.flip(0)), "in forward of Net"),
    "softmax": (Net(lambda net, x: x.softmax(0)), "in forward of Net"),
    "first item": (Net(lambda net, x: x - x[:1]), "in forward of Net"),
    "pooled": (
        Net(lambda net, x: net.pool(x.T[None])[0].T, pool=nn.AvgPool1d(3, 1, 1)),
        r"in forward of Net",
    ),
    "branch": (Net(lambda net, x: x * 2 if x.max() > 1e4 else x), "in forward of Net"),
    "normalized": (Net(normalized), "in forward of Net"),
    "positions": (Net(lambda net, x: x + torch.arange(len(x))[:, None]), "in forward of Net"),
    "norm without statistics": (
        Net(
            lambda net, x: net.norm(image(x)).amax((2, 3)),
            norm=nn.BatchNorm2d(16, track_running_stats=False),
        ),
        r"in norm \(BatchNorm2d\), which uses the batch's own statistics",
    ),
    "attention": (
        Net(lambda net, x: net.attend(x, x, x)[0], attend=nn.MultiheadAttention(16, 2)),
        r"in attend \(MultiheadAttention\)",
    ),
}


@pytest.mark.parametrize("kind", MIXING)
def test_modules_that_mix_items_are_refused(kind: str) -> None:
    module, part = MIXING[kind]
    with pytest.raises(SourceError, match=rf"^net: beside .* spread .*, first {part}.*{BY_BATCH}"):
        check(module)
    check(module, largest=1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Net(lambda net, x: functional.dropout(x)), f"two runs .* first in forward.*{NEITHER}"),
        (
            Net(lambda net, x: net.drop.train()(x), drop=nn.Dropout()),
            rf"two runs .* random numbers.*, first in drop \(Dropout\); {NEITHER}",
        ),
        (Net(lambda net, x: x * (torch.rand(()) > 0.2)), f"two runs .*, first in .*{NEITHER}"),
        (
            Net(lambda net, x: x + torch.tensor(np.random.rand())),
            f"two runs .* differ by .*{NEITHER}",
        ),
        (Net(counted, count=nn.Buffer(torch.zeros(1))), f"two runs .* keeps state.*{NEITHER}"),
        (Net(counted, count=0), f"two runs .* keeps state.*{NEITHER}"),
        (Net(remembered, kept=None), f"after other inputs, .*, first in forward.*{NEITHER}"),
        (Net(registered), f"after other inputs, .*, first in forward.*{NEITHER}"),
        (Net(averaged, mean=torch.zeros(1)), f"after other inputs, .* keeps state.*{NEITHER}"),
        (
            Net(
                lambda net, x: x + 0 * net.count.add_(1),
                count=nn.Buffer(torch.zeros(1)),
            ),
            "forward changes count in eval mode",
        ),
        (nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 5)), "forward writes into its input"),
    ],
)
@pytest.mark.parametrize("largest", [1, 8])
def test_answers_that_change_are_refused(module: nn.Module, message: str, largest: int) -> None:
    with pytest.raises(SourceError, match=f"^net: {message}"):
        check(module, largest=largest)


def test_capacity_of_a_batch_is_noticed() -> None:
    """An expert that takes the first five items of a batch leaves out the last one of eight."""
    limited = Net(lambda net, x: x * (torch.arange(len(x)) < 5)[:, None])
    with pytest.raises(SourceError, match="in a batch of 8, an item's answer differs"):
        check(limited)


def test_norm_in_training_mode_is_refused_at_any_size() -> None:
    module = Net(in_training, norm=nn.BatchNorm2d(16))
    with pytest.raises(SourceError, match=r", first in norm \(BatchNorm2d\), .*; let") as refusal:
        check(module)
    assert "max_batch_size" not in str(refusal.value)
    with pytest.raises(SourceError, match=r"forward changes norm\.running_mean in eval mode"):
        check(module, largest=1)


def test_module_that_runs_no_single_item_is_refused() -> None:
    module = Net(lambda net, x: net.norm.train()(x), norm=nn.BatchNorm1d(16))
    reason = r"not run on a batch of 1: ValueError: .*, in norm \(BatchNorm1d\); serving runs"
    with pytest.raises(SourceError, match=reason):
        check(module)
    with pytest.raises(
        SourceError, match=r"for a batch of 1 it returns \[5\]; serving runs single"
    ):
        check(nn.Sequential(Net(), nn.Flatten(0, 1)))


def test_fixed_batch_is_refused_unless_asked_for() -> None:
    module = nn.Sequential(nn.Unflatten(0, (1, 1)), nn.Flatten(0, 1), Net())
    with pytest.raises(SourceError, match=rf"^net: it does not run on a batch of 2: .*{BY_BATCH}"):
        check(module)
    check(module, largest=1)


def test_layer_that_is_still_zero_is_refused() -> None:
    # A scale of zero, as it is initialised, hides the mean of the batch until it is trained.
    module = Net(lambda net, x: x + net.scale * x.mean(0), scale=nn.Parameter(torch.zeros(1)))
    with pytest.raises(SourceError, match="beside huge values"):
        check(module)


class Hooked(nn.Module):
    """Module that reads a feature that a hook has put aside, through a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 5)
        self.features: dict[str, torch.Tensor] = {}
        self.first.register_forward_hook(
            lambda part, inputs, output: self.features.__setitem__("first", output)
        )
        self.head = lambda x: self.last(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.first(x)
        return self.head(self.features["first"])


class Passing(nn.Module):
    """Module whose attributes are those of another, down to a copy protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.fx.symbolic_trace(Net())

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inner(x)


class Optional(Net):
    def forward(self, x: torch.Tensor, mask: Any = None, *, scale: float = 1.0) -> torch.Tensor:
        return super().forward(x) * scale


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.outer = nn.Linear(8, 8)
        self.outer.weight = self.inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.inner(x))


def masked(net: Net, x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` by a mask that is kept for each batch size."""
    if len(x) not in net.masks:
        net.masks[len(x)] = torch.ones(len(x), 1, dtype=x.dtype)
    return x * net.masks[len(x)]


USUAL: dict[str, Callable[[], nn.Module]] = {
    "plain": Net,
    "positions kept": lambda: Net(positions, kept=None),
    "masks kept by batch": lambda: Net(masked, masks={}),
    "hooks and lambdas": Hooked,
    "attributes of another": Passing,
    "optional arguments": Optional,
    "tied": Tied,
    "weight norm": lambda: nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), Net()
    ),
    "older weight norm": lambda: nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(8, 8)), Net()),
    "spectral norm": lambda: nn.Sequential(
        torch.nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), Net()
    ),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(8), Net()),
    "numbers drawn and not used": lambda: Net(lambda net, x: x + 0 * torch.rand(())),
    "NaN in a buffer": lambda: Net(bound=nn.Buffer(torch.tensor(float("nan")))),
    "recurrent": lambda: Net(
        lambda net, x: net.cell(x[:, None])[0][:, 0], cell=nn.GRU(16, 16, batch_first=True)
    ),
}


GENERATED: dict[str, Callable[[], nn.Module]] = {
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU())),
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "traced": lambda: torch.fx.symbolic_trace(Net()),
    "exported": lambda: torch.export.export(Net(), (torch.zeros(2, 8),)).module(),
}


def facts(module: nn.Module) -> dict[str, Any]:
    """Return everything that a run could change: tensors, modes, attributes, random states."""
    return {
        "state": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "training": [part.training for part in module.modules()],
        "attributes": [
            {
                name: copy.copy(value)
                for name, value in vars(part).items()
                if not isinstance(value, nn.Module) and not name.startswith("_")
            }
            for part in module.modules()
        ],
        "hooks": [[*part._forward_hooks, *part._forward_pre_hooks] for part in module.modules()],
        "gradients": [parameter.grad for parameter in module.parameters()],
        "torch": torch.get_rng_state().clone(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
    }


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("kind", USUAL)
def test_check_leaves_usual_modules_unchanged(kind: str) -> None:
    module = USUAL[kind]().eval()
    parameters = [id(parameter) for parameter in module.parameters()]
    before = facts(module)
    check(module)
    after = facts(module)
    assert [id(parameter) for parameter in module.parameters()] == parameters
    torch.testing.assert_close(
        after.pop("state"), before.pop("state"), rtol=0, atol=0, equal_nan=True
    )
    torch.testing.assert_close(after.pop("torch"), before.pop("torch"), rtol=0, atol=0)
    assert str(after) == str(before)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("kind", [*USUAL, *GENERATED])
def test_copy_computes_the_same_and_shares_nothing(kind: str) -> None:
    module = (USUAL | GENERATED)[kind]()
    if kind != "exported":  # it has no modes
        module.eval()
    x = torch.randn(2, 8)
    expected = module(x)  # with gradients: what it keeps has a history
    copied = copy_of(module)
    assert type(copied).__qualname__ == type(module).__qualname__
    torch.testing.assert_close(copied(x), expected)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    torch.testing.assert_close(copied(x), expected)
    assert len([*copied.parameters()]) == len([*module.parameters()])


def test_what_cannot_be_copied_is_named() -> None:
    with pytest.raises(SourceError, match=r"Net cannot be copied.*cannot pickle 'generator'"):
        copy_of(Net(rows=(row for row in range(3))))


# ---------------------------------------------------------------------------- at load

HEADER = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 5)
"""


def load(source: str, **fields: Any) -> LoadedModel:
    tensor = {"shape": [8]}
    return load_model(ModelSource.model_validate({"source": source, "tensor": tensor, **fields}))


def test_source_that_mixes_items_needs_batch_size_1(module_file: Callable[[str], str]) -> None:
    source = module_file(
        HEADER + "    def forward(self, x): return self.last(self.first(x - x.mean(0)))\n"
        "def make(): return Net()"
    )
    with pytest.raises(SourceError, match=rf"^python:.*:make: beside zeros.*{BY_BATCH}"):
        load(source)
    assert load(source, max_batch_size=1).outputs[0].shape == (-1, 5)


def test_lazy_layers_get_their_sizes_at_load(module_file: Callable[[str], str]) -> None:
    source = module_file(
        "from torch import nn\n"
        "def make(): return nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.LazyLinear(5))"
    )
    torch.manual_seed(3)
    module = load(source).module
    assert [tuple(p.shape) for p in module.parameters()] == [(6, 8), (6,), (6,), (6,), (5, 6), (5,)]
    assert not module.training
    torch.manual_seed(3)
    torch.testing.assert_close(load(source).module.state_dict(), module.state_dict())


def test_layer_and_buffer_made_by_first_forward_exist(module_file: Callable[[str], str]) -> None:
    source = module_file(
        HEADER + "    def forward(self, x):\n"
        "        if not hasattr(self, 'scale'):\n"
        "            self.mid = nn.Linear(16, 16)\n"
        "            self.register_buffer('scale', torch.arange(16.0))\n"
        "        return self.last(self.mid(self.first(x)) * self.scale)\n"
        "def make(): return Net()"
    )
    module = load(source).module
    assert {"mid.weight", "mid.bias", "scale"} <= module.state_dict().keys()
    assert not module.training


def test_value_of_first_input_in_a_buffer_is_refused(module_file: Callable[[str], str]) -> None:
    source = module_file(
        HEADER + "    def forward(self, x):\n"
        "        x = self.first(x)\n"
        "        if not hasattr(self, 'scale'): self.register_buffer('scale', x.std())\n"
        "        return self.last(x / self.scale)\n"
        "def make(): return Net()"
    )
    with pytest.raises(SourceError, match=r"after other inputs, .* first in forward of Net"):
        load(source)


def test_state_besides_tensors_is_refused(module_file: Callable[[str], str]) -> None:
    source = module_file(
        HEADER + "    def forward(self, x): return self.last(self.first(x))\n"
        "    def get_extra_state(self): return {'version': 3}\n"
        "    def set_extra_state(self, state): pass\n"
        "def make(): return Net()"
    )
    with pytest.raises(SourceError, match=r"its state has _extra_state, a dict, .* tensors alone"):
        load(source)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("raise ValueError('needs 9 columns.')", "ValueError: needs 9 columns, in forward of Net;"),
        ("{}['bias']", "KeyError: 'bias', in forward of Net;"),
        ("assert x.shape[1] == 9", "AssertionError, in forward of Net;"),
    ],
)
def test_any_error_of_forward_is_one_sentence(
    module_file: Callable[[str], str], statement: str, text: str
) -> None:
    source = module_file(
        HEADER + f"    def forward(self, x):\n        {statement}\n        return x\n"
        "def make(): return Net()"
    )
    with pytest.raises(SourceError) as refusal:
        load(source)
    assert f"does not accept input FP32 [-1, 8]: {text}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_tensor_kept_at_load_can_be_trained_with(module_file: Callable[[str], str]) -> None:
    source = module_file(
        HEADER + "        self.kept = None\n"
        "    def forward(self, x):\n"
        "        x = self.first(x)\n"
        "        if self.kept is None: self.kept = torch.arange(16).float().cos()\n"
        "        return self.last(x * self.kept)\n"
        "def make(): return Net()"
    )
    module = load(source).module
    assert module.kept is None
    module.train()(torch.randn(2, 8)).sum().backward()
    assert module.first.weight.grad is not None


def test_error_of_forward_is_one_sentence_with_its_layer(module_file: Callable[[str], str]) -> None:
    source = module_file(
        HEADER + "        self.first = nn.Linear(7, 16)\n"
        "    def forward(self, x): return self.last(self.first(x))\n"
        "def make(): return Net()"
    )
    with pytest.raises(SourceError) as refusal:
        load(source)
    assert str(refusal.value) == (
        f"{source} does not accept input FP32 [-1, 8]: RuntimeError: mat1 and mat2 shapes cannot "
        "be multiplied (1x8 and 7x16), in first (Linear); correct its forward, or change "
        "model.image, model.text, model.tensor or model.tensors to its input"
    )
