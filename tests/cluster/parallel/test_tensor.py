"""Tensor slices, compared with whole models and with PyTorch's DTensor."""

from __future__ import annotations

import copy
import os
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torchvision.models import VisionTransformer

from cluster.compression.export import exported
from cluster.compression.quantization import linear
from cluster.compression.quantization.half_precision import LowPrecision, keep_in_half
from cluster.compression.quantization.scheme import is_linear
from cluster.compression.work import tensors_of
from cluster.errors import PlanError
from cluster.models.hf_embeddings import TextEmbedding
from cluster.parallel.tensor import TensorPlan, plan_for, shard_module
from cluster.program import collective
from cluster.tensors import BATCH, TensorSpec

TOKENS = 12
LAYERS = 2


class Logits(nn.Module):
    """Wrapper of classifiers as in cluster/models/from_hf.py."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(*inputs).logits


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=99,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        num_labels=5,
    )
    return Logits(transformers.BertForSequenceClassification(config))


def mini_lm() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=99,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    return TextEmbedding(model, "mean", normalize=True)


def roberta() -> nn.Module:
    config = transformers.RobertaConfig(
        vocab_size=99,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        num_labels=5,
    )
    return Logits(transformers.RobertaForSequenceClassification(config))


def distilbert() -> nn.Module:
    config = transformers.DistilBertConfig(
        vocab_size=99,
        dim=64,
        n_layers=LAYERS,
        n_heads=4,
        hidden_dim=128,
        num_labels=5,
        max_position_embeddings=32,
    )
    return Logits(transformers.DistilBertForSequenceClassification(config))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=99,
        n_embd=64,
        n_layer=LAYERS,
        n_head=4,
        n_positions=32,
        num_labels=5,
        pad_token_id=0,
        use_cache=False,
    )

    class LastLogits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.GPT2Model(config)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output = self.model(input_ids=input_ids, attention_mask=attention_mask)
            return output.last_hidden_state[:, -1]

    return LastLogits()


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=99,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        use_cache=False,
    )

    class LastLogits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.LlamaForCausalLM(config)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits[:, -1]

    return LastLogits()


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=16,
        patch_size=8,
        num_labels=5,
    )
    return Logits(transformers.ViTForImageClassification(config))


def torchvision_vit() -> nn.Module:
    return VisionTransformer(16, 8, LAYERS, 4, 64, 128, num_classes=5)


TEXTS = (
    TensorSpec(name="input_ids", datatype="INT64", shape=(BATCH, TOKENS)),
    TensorSpec(name="attention_mask", datatype="INT64", shape=(BATCH, TOKENS)),
)
IMAGES = (TensorSpec(name="image", datatype="FP32", shape=(BATCH, 3, 16, 16)),)

FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[TensorSpec, ...]]] = {
    "bert": (bert, TEXTS),
    "mini_lm": (mini_lm, TEXTS),
    "roberta": (roberta, TEXTS),
    "distilbert": (distilbert, TEXTS),
    "gpt2": (gpt2, TEXTS),
    "llama": (llama, TEXTS),
    "vit": (vit, IMAGES),
    "torchvision_vit": (torchvision_vit, IMAGES),
}


def built(family: str) -> tuple[nn.Module, tuple[TensorSpec, ...]]:
    """Return a model with random weights, biases and norms, large enough to show mistakes."""
    torch.manual_seed(7)
    make, specs = FAMILIES[family]
    module = make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15)
    return module, specs


def batch(specs: tuple[TensorSpec, ...], size: int) -> list[torch.Tensor]:
    if specs == IMAGES:
        return [torch.randn(size, 3, 16, 16)]
    mask = torch.ones(size, TOKENS, dtype=torch.int64)
    for row in range(size):  # texts of different lengths, padded on the left as for GPT-2
        mask[row, : row % 5] = 0
    return [torch.randint(1, 99, (size, TOKENS)), mask]


class Counting:
    """Group that counts its sums."""

    def __init__(self, group: collective.Group) -> None:
        self.group = group
        self.sums = 0

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        self.sums += 1
        return self.group.all_reduce(tensor)


def together(
    shards: list[Callable[..., torch.Tensor]], inputs: list[torch.Tensor]
) -> tuple[list[torch.Tensor], int]:
    """Run all ranks; return their answers and the number of sums."""
    groups = [Counting(group) for group in collective.thread_groups(len(shards), timeout_s=20)]
    results: list = [None] * len(shards)

    def run(rank: int) -> None:
        with torch.no_grad(), collective.using(groups[rank]):
            results[rank] = shards[rank](*inputs)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(shards))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, groups[0].sums


def shards_of(module: nn.Module, plan: TensorPlan, degree: int) -> list[nn.Module]:
    return [shard_module(module, plan, rank, degree) for rank in range(degree)]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


# ---------------------------------------------------------------------------- families


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_slices_of_family_match_whole_model(family: str, degree: int) -> None:
    module, specs = built(family)
    before = tensors_of(module)
    shards = shards_of(module, plan_for(module), degree)
    for size in (1, 3, 8):
        inputs = batch(specs, size)
        with torch.no_grad():
            expected = module(*inputs)
        results, sums = together(shards, inputs)
        assert sums == 2 * LAYERS
        for result in results:
            assert relative_error(result, expected) < 1e-4
            assert torch.equal(result, results[0])
    after = tensors_of(module)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", FAMILIES)
def test_slices_hold_only_their_share_in_new_memory(family: str) -> None:
    module, _ = built(family)
    plan = plan_for(module)
    cut = {
        id(parameter)
        for name in (*plan.layers, *plan.attentions)
        for parameter in module.get_submodule(name).parameters()
        if parameter.ndim == 2
    }
    in_layers = sum(p.numel() for p in module.parameters() if id(p) in cut)
    uncut = sum(p.numel() for p in module.parameters() if id(p) not in cut and p.ndim == 2)
    addresses = {tensor.untyped_storage().data_ptr() for tensor in module.state_dict().values()}
    for shard in shards_of(module, plan, 2):
        count = sum(p.numel() for p in shard.parameters() if p.ndim == 2)
        assert count == in_layers // 2 + uncut
        for tensor in shard.state_dict().values():
            assert tensor.untyped_storage().data_ptr() not in addresses
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("family", FAMILIES)
def test_slices_export_with_a_dynamic_batch(family: str) -> None:
    module, specs = built(family)
    graphs = [
        exported(shard, specs, strict=False) for shard in shards_of(module, plan_for(module), 2)
    ]
    operator = torch.ops.headrace.all_reduce.default
    assert sum(node.target is operator for node in graphs[0].graph.nodes) == 2 * LAYERS
    inputs = batch(specs, 5)
    with torch.no_grad():
        expected = module(*inputs)
    results, _ = together([graph.module() for graph in graphs], inputs)
    assert relative_error(results[0], expected) < 1e-4


# ---------------------------------------------------------------------------- DTensor


def dtensor_rank(rank: int, port: int, families: list[str], results: object) -> None:
    """Report each family's answer and slices by ``parallelize_module``."""
    from torch.distributed.tensor import DTensor, init_device_mesh
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    styles = {"column": ColwiseParallel, "row": RowwiseParallel}
    reports = {}
    for family in families:
        module, specs = built(family)
        plan = plan_for(module)
        inputs = batch(specs, 3)
        parallelize_module(
            module, mesh, {name: styles[style]() for name, style in plan.layers.items()}
        )
        with torch.no_grad():
            answer = module(*inputs)
        local = {
            name: tensor.to_local().numpy().copy()
            for name, tensor in module.state_dict().items()
            if isinstance(tensor, DTensor)
        }
        reports[family] = (answer.numpy(), local)
    results.put((rank, reports))  # type: ignore[attr-defined]
    torch.distributed.destroy_process_group()


def test_slices_and_answers_match_dtensor() -> None:
    families = ["bert", "vit", "llama"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=dtensor_rank, args=(rank, port, families, queue), daemon=True)
        for rank in range(2)
    ]
    try:
        for process in processes:
            process.start()
        reports = dict(queue.get(timeout=60) for _ in processes)
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    for family in families:
        module, specs = built(family)
        shards = shards_of(module, plan_for(module), 2)
        results, _ = together(shards, batch(specs, 3))
        for rank, shard in enumerate(shards):
            answer, local = reports[rank][family]
            assert relative_error(results[rank], torch.from_numpy(answer)) < 1e-4
            state = shard.state_dict()
            assert local
            for name, slice_ in local.items():
                owner, _, last = name.rpartition(".")
                actual = state[name if name in state else f"{owner}.layer.{last}"]
                np.testing.assert_array_equal(actual.numpy(), slice_, err_msg=name)


def test_plan_rejects_relative_with_weights_per_head() -> None:
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=32, depths=[1, 1], num_heads=[2, 4], window_size=4
    )
    with pytest.raises(PlanError, match="no built-in plan"):
        plan_for(transformers.SwinModel(config))


# ---------------------------------------------------------------------------- custom patterns


class CustomModel(nn.Module):
    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.up = nn.Linear(16, width)
        self.down = nn.Linear(width, 16, bias=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.down(torch.relu(self.up(x))))


def test_patterns_cut_custom_model() -> None:
    module = CustomModel().eval()
    plan = plan_for(module, {"up": "column", "dow?": "row"})
    x = torch.randn(5, 16)
    results, sums = together(shards_of(module, plan, 3), [x])
    assert sums == 1
    assert relative_error(results[2], module(x).detach()) < 1e-5


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (None, r"no built-in plan .*BERT.*slices: .*its linear layers are up, down, head"),
        ({"*.fc1": "column"}, r"'\*.fc1' matches no layer that can be cut; its linear layers are"),
        ({"up": "column"}, "one kind only"),
        ({"up": "column", "*": "row"}, "up as both column and row"),
    ],
)
def test_plan_rejects_inconsistent_patterns(patterns: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_for(CustomModel(), patterns)


def test_plan_rejects_shared_weight() -> None:
    module = CustomModel(16)
    module.head.weight = module.up.weight
    with pytest.raises(PlanError, match="up and head share a weight"):
        plan_for(module, {"up": "column", "down": "row"})


@pytest.mark.parametrize(
    ("family", "degree", "message"),
    [
        ("bert", 3, r"tensor=3 .*self.query has 4 heads. Possible degrees: 2, 4$"),
        ("llama", 8, r"tensor=8 .*k_proj has 4 heads. Possible degrees: 2, 4$"),
        ("gpt2", 8, r"c_attn has 4 heads"),
        ("torchvision_vit", 3, r"self_attention has 4 heads"),
    ],
)
def test_shard_rejects_degree_that_splits_heads(family: str, degree: int, message: str) -> None:
    module, _ = built(family)
    with pytest.raises(PlanError, match=message):
        shard_module(module, plan_for(module), 0, degree)


def test_shard_rejects_degree_that_splits_features() -> None:
    plan = plan_for(module := CustomModel(), {"up": "column", "down": "row"})
    with pytest.raises(PlanError, match=r"up has 48 outputs. Possible degrees: 2, 3, 4, 6, 8, 12"):
        shard_module(module, plan, 0, 5)
    with pytest.raises(PlanError, match="rank 2 of 2"):
        shard_module(module, plan, 2, 2)


# ---------------------------------------------------------------------------- quantized


class FewItems:
    """Training samples of a job: four items."""

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self._arrays = [tensor.numpy() for tensor in batch(specs, len(self))]

    def __len__(self) -> int:
        return 4

    def batch(self, indices: range) -> tuple[list[np.ndarray], np.ndarray]:
        return [array[list(indices)] for array in self._arrays], np.zeros(len(indices), np.int64)


def job_of(specs: tuple[TensorSpec, ...]) -> Any:
    """Return as much of a job as quantization of linear layers reads."""
    model = SimpleNamespace(max_batch_size=None)
    return SimpleNamespace(
        recipe=SimpleNamespace(model=model), train=FewItems(specs), out=lambda line: None
    )


def dynamic_int8(module: nn.Module, specs: tuple[TensorSpec, ...]) -> nn.Module:
    return linear.dynamic_int8(module, (), (), None, job_of(specs)).module


def weight_only_int8(module: nn.Module, specs: tuple[TensorSpec, ...]) -> nn.Module:
    return linear.weight_only_int8(module, (), (), None, job_of(specs)).module


def weight_only_int4(module: nn.Module, specs: tuple[TensorSpec, ...]) -> nn.Module:
    return linear.weight_only_int4(module, (), (), None, job_of(specs)).module


def bf16(module: nn.Module, specs: tuple[TensorSpec, ...]) -> nn.Module:
    return LowPrecision(module, torch.bfloat16)


def with_bf16_layers(module: nn.Module, specs: tuple[TensorSpec, ...]) -> nn.Module:
    names = [n for n, m in module.named_modules() if n.endswith("output.dense") and is_linear(m)]
    keep_in_half(module, names, torch.bfloat16)
    return module


@pytest.mark.parametrize("family", ["bert", "gpt2", "torchvision_vit"])
@pytest.mark.parametrize("scheme", [dynamic_int8, weight_only_int8, bf16, with_bf16_layers])
def test_quantized_layers_are_cut_without_requantization(
    scheme: Callable[[nn.Module, tuple[TensorSpec, ...]], nn.Module], family: str
) -> None:
    module, specs = built(family)
    inputs = batch(specs, 3)
    with torch.no_grad():
        exact = module(*inputs)
    low = scheme(copy.deepcopy(module), specs).eval()
    with torch.no_grad():
        expected = low(*inputs)
    shards = shards_of(low, plan_for(low), 2)
    results, sums = together(shards, inputs)
    assert sums == 2 * LAYERS
    assert torch.equal(results[0], results[1])
    # Rounded differently, but no worse: on each rank, or before the sum.
    rounding = relative_error(expected, exact)
    assert relative_error(results[0], exact) < max(2 * rounding, 1e-4)
    graph = exported(shards[0], specs, strict=False)
    assert any(node.target is torch.ops.headrace.all_reduce.default for node in graph.graph.nodes)


def test_int8_slices_equal_integers_of_whole_model() -> None:
    module = dynamic_int8(*built("bert"))
    shards = shards_of(module, plan_for(module), 2)
    state = module.state_dict()
    block = "model.bert.encoder.layer.0"
    stored = "parametrizations.weight.original"
    for name, dim in ((f"{block}.intermediate.dense", 0), (f"{block}.output.dense", 1)):
        parts = [
            shard.state_dict()[f"{name}.{'layer.' if dim else ''}{stored}0"] for shard in shards
        ]
        assert torch.equal(torch.cat(parts, dim), state[f"{name}.{stored}0"])
        scales = [
            shard.state_dict()[f"{name}.{'layer.' if dim else ''}{stored}1"] for shard in shards
        ]
        full = state[f"{name}.{stored}1"]
        assert torch.equal(scales[0] if dim else torch.cat(scales), full)


def test_plan_rejects_int4_with_alternatives() -> None:
    low = weight_only_int4(*built("bert"))
    with pytest.raises(PlanError, match=r"cannot be cut.*dynamic_int8, weight_only_int8 or bf16"):
        plan_for(low)


def test_shard_rejects_degree_that_splits_int8_vectors() -> None:
    low = weight_only_int8(*built("bert"))
    with pytest.raises(
        PlanError, match=r"64 int8 inputs, and each rank's must be a multiple of 32"
    ):
        shard_module(low, plan_for(low), 0, 4)


def test_plan_rejects_graph_with_alternatives() -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Flatten(), nn.ReLU()))
    with pytest.raises(PlanError, match="as produced by static_int8"):
        plan_for(graph)
