"""Tables of docs/scaling.md, recomputed: its text agrees with its arithmetic.

docs/scaling.md → assumptions, shapes → the formulas, in ShardPlan, Link and balance
                → its other tables ─────────────────────┴→ equal to the printed digits
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from cluster.parallel.balance import balance
from cluster.parallel.link import Link
from cluster.parallel.plan import FRAMES_AT_A_SHARD, ShardPlan

DOCUMENT = Path(__file__).parents[1] / "docs" / "scaling.md"
BYTES = {"bf16": 2, "int8": 1}
NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?")


def table(heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading, without its header."""
    below = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\|(.*)\|$", re.search(r"(^\|.*\n)+", below, re.M)[0], re.M)
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


def number(cell: str) -> float:
    """Return the first number of a cell."""
    match = NUMBER.search(cell)
    assert match, f"{cell!r} has no number"
    return float(match[0].replace(",", ""))


def agrees(cell: str, value: float) -> bool:
    """Return whether a cell shows the value, rounded to its digits."""
    match = NUMBER.search(cell)
    if match is None:
        return False
    decimals = len(match[1]) - 1 if match[1] else 0
    return abs(number(cell) - value) <= 0.5001 * 10**-decimals


@dataclass(frozen=True)
class Hardware:
    """Assumptions of the document, in FLOP, bytes and seconds; links as in a shard plan."""

    flops_per_s: float
    weights_per_s: float
    usable_bytes: float
    node: Link
    network: Link
    replica: Link
    tokens: int
    vocabulary: int


@cache
def hardware() -> Hardware:
    values = {row[0]: number(row[1]) for row in table("Assumptions")}

    def link(name: str, gb_per_s: float) -> Link:
        share = values["share of a link that is reached"]
        return Link(values[f"latency {name}"] / 1e3, gb_per_s * share * 1e6)

    return Hardware(
        flops_per_s=values["bf16 dense peak"] * values["share of the peak that is reached"] * 1e12,
        weights_per_s=values["HBM bandwidth"] * values["share of HBM that is reached"] * 1e12,
        usable_bytes=(values["memory of a device"] - values["of it not for weights"]) * 1e9,
        node=link("NVLink", values["NVLink, one direction"]),
        network=link("network", values["network, per GPU"] / 8),
        replica=Link(values["latency replica ↔ shard"] / 1e3, values["replica ↔ shard"] * 1e6),
        tokens=int(values["tokens of a prompt"]),
        vocabulary=int(values["vocabulary"]),
    )


@dataclass(frozen=True)
class Transformer:
    """Decoder of Llama's shape."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int

    @property
    def layer_parameters(self) -> int:
        keys_and_values = 2 * self.hidden * self.hidden * self.kv_heads // self.heads
        return 2 * self.hidden**2 + keys_and_values + 3 * self.hidden * self.mlp

    @property
    def vocabulary_parameters(self) -> int:
        """Parameters of the embedding; the head has as many."""
        return hardware().vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer_parameters + 2 * self.vocabulary_parameters

    @property
    def layer_flops(self) -> int:
        """FLOP of one token: its weights, and attention to all tokens of the prompt."""
        return 2 * self.layer_parameters + 4 * hardware().tokens * self.hidden

    def carried_bytes(self, batch: int) -> int:
        """Return the bytes of the hidden states of ``batch`` prompts, in bf16."""
        return batch * hardware().tokens * self.hidden * 2

    def weight_bytes(self, precision: str, stages: int, tensor: int) -> float:
        """Return the bytes of the fullest shard; every rank holds embedding and head in bf16."""
        layers = self.layers / stages * self.layer_parameters * BYTES[precision] / tensor
        return layers + (2 if stages == 1 else 1) * self.vocabulary_parameters * 2


@cache
def models() -> dict[str, Transformer]:
    rows = table("The two models")
    return {row[0]: Transformer(*(int(number(cell)) for cell in row[1:6])) for row in rows}


def all_reduce_ms(size: float, ranks: int, link: Link) -> float:
    """Return the time of a ring: a rank sends 2 (T - 1) / T of the tensor; for two, ``link.ms``."""
    return link.ms(2 * (ranks - 1) / ranks * size)


def two_level_ms(size: float, nodes: int, ranks: int) -> float:
    """Return the time of sums inside nodes, of eighths between them, and a gather inside nodes."""
    machine = hardware()
    inside = machine.node.latency_ms + all_reduce_ms(size, ranks // nodes, machine.node)
    return inside + all_reduce_ms(size * nodes / ranks, nodes, machine.network)


def reduce_ms(size: float, tensor: int, two_level: bool) -> float:
    if tensor == 1:
        return 0.0
    if tensor <= 8:
        return all_reduce_ms(size, tensor, hardware().node)
    if two_level:
        return two_level_ms(size, tensor // 8, tensor)
    return all_reduce_ms(size, tensor, hardware().network)


def placed(
    model: Transformer, stages: int, tensor: int, batch: int, two_level: bool = False
) -> ShardPlan:
    """Return the cut as a shard plan, on nodes of eight devices."""
    machine = hardware()
    size = model.carried_bytes(batch)
    compute = model.layer_flops * batch * machine.tokens / tensor / machine.flops_per_s * 1e3
    # In bf16 for int8 too: with 512 tokens, compute is always the longer one.
    read = model.layer_parameters * 2 / tensor / machine.weights_per_s * 1e3
    layer = max(compute, read) + 2 * reduce_ms(size, tensor, two_level)
    crossing = [machine.node.ms(size)] * (model.layers - 1)
    cuts = balance([layer] * model.layers, crossing, stages)
    borders = [-1, *cuts, model.layers - 1]
    # After stage s, the next device is on another node if eight are full.
    between = [
        machine.network if (stage * tensor) % 8 == 0 else machine.node for stage in range(1, stages)
    ]
    hops = [
        machine.replica.ms(batch * machine.tokens * 8),
        *(link.ms(size) for link in between),
        machine.replica.ms(batch * machine.vocabulary * 2),
    ]
    return ShardPlan(
        model="",
        target="cuda-sm90",
        pipeline=stages,
        tensor=tensor,
        layout=None,
        built=False,
        batch=batch,
        shards=(),
        bundles=(),
        placement="PACK",
        stage_ms=tuple((b - a) * layer for a, b in pairwise(borders)),
        hop_ms=(0.0, 0.0) if stages * tensor == 1 else tuple(hops),
    )


def eight_prompts_ms(model: Transformer, replicas: int, *cut: int, two_level: bool) -> float:
    """Return the time of eight concurrent prompts, spread over the replicas."""
    share = -(-8 // replicas)
    one = placed(model, *cut, 1, two_level=two_level)
    together = placed(model, *cut, share, two_level=two_level)
    return min(one.latency_ms + (share - 1) * one.slowest_ms, together.latency_ms)


def cut_of(cell: str) -> tuple[int, int]:
    """Return (stages, tensor) of ``whole``, ``tp8``, ``pp8`` or ``tp4×pp2``."""
    sizes = {name: int(size) for name, size in re.findall(r"(tp|pp)(\d+)", cell)}
    assert sizes or "whole" in cell, cell
    return sizes.get("pp", 1), sizes.get("tp", 1)


def test_model_table_follows_its_formulas() -> None:
    rows = table("The two models")
    assert len(rows) == 2
    for name, *_, layer, total, weights, attention in rows:
        model = models()[name]
        assert agrees(layer, model.layer_parameters / 1e6), name
        assert agrees(total, model.parameters / 1e9), name
        assert agrees(weights, 2 * model.layers * model.layer_parameters / 1e9), name
        of_attention = model.layers * (model.layer_flops - 2 * model.layer_parameters)
        assert agrees(attention, of_attention / 1e9), name


def test_memory_table_follows_its_formulas() -> None:
    cuts = ["whole", "tp2", "pp2", "tp8", "pp8", "tp4×pp2", "tp8×pp2"]
    rows = table("Memory")
    assert len(rows) == 4
    usable = hardware().usable_bytes
    for name, precision, *cells, fewest in rows:
        model = models()[name]
        for cut, cell in zip(cuts, cells, strict=True):
            weights = model.weight_bytes(precision, *cut_of(cut))
            assert agrees(cell, weights / 1e9), (name, precision, cut)
            assert ("too large" in cell) == (weights > usable), (name, precision, cut)
        least = next(n for n in range(1, 99) if model.weight_bytes(precision, 1, n) <= usable)
        assert agrees(fewest, least), (name, precision)
    # The other uses of memory, at batch 8, fit into the reserve.
    large, usable_for_others = models()["70B"], 1e9
    transport = FRAMES_AT_A_SHARD * large.carried_bytes(8)
    widest = 8 * hardware().tokens * (2 * large.mlp + 2 * large.hidden) * 2
    assert transport + widest < usable_for_others


def test_transfer_table_follows_its_formulas() -> None:
    machine = hardware()
    rows = table("Transfers")
    assert len(rows) == 4
    for name, batch, size, tp2, tp4, tp8, tp16, hop, far_hop in rows:
        sent = models()[name].carried_bytes(int(batch))
        assert agrees(size, sent / 1e6)
        for cell, ranks in ((tp2, 2), (tp4, 4), (tp8, 8)):
            assert agrees(cell, all_reduce_ms(sent, ranks, machine.node) * 1e3), (name, ranks)
        assert agrees(tp16, all_reduce_ms(sent, 16, machine.network) * 1e3), name
        assert agrees(hop, machine.node.ms(sent) * 1e3), name
        assert agrees(far_hop, machine.network.ms(sent) * 1e3), name


@pytest.mark.parametrize(
    ("heading", "devices", "fewest"), [("Eight GPUs", 8, 10), ("Sixty-four GPUs", 64, 10)]
)
def test_cut_tables_follow_the_plan(heading: str, devices: int, fewest: int) -> None:
    rows = table(heading)
    assert len(rows) >= fewest
    for row in rows:
        name, cut, replicas, one, eight, spread, tokens_1, tokens_8, of_ideal = row
        model, precision = models()[name.split()[0]], name.split()[1]
        stages, tensor = cut_of(cut)
        assert int(replicas) * stages * tensor == devices, row
        assert model.weight_bytes(precision, stages, tensor) <= hardware().usable_bytes, row
        assert model.kv_heads % tensor == 0, row
        two_level = "two levels" in cut
        plans = {b: placed(model, stages, tensor, b, two_level) for b in (1, 8)}
        rate = {
            b: int(replicas) * plan.items_per_s * hardware().tokens for b, plan in plans.items()
        }
        assert agrees(one, plans[1].latency_ms), row
        assert agrees(eight, plans[8].latency_ms), row
        together = eight_prompts_ms(model, int(replicas), stages, tensor, two_level=two_level)
        assert agrees(spread, together), row
        assert agrees(tokens_1, rate[1] / 1e3), row
        assert agrees(tokens_8, rate[8] / 1e3), row
        ideal = devices * hardware().flops_per_s / (model.layers * model.layer_flops)
        assert agrees(of_ideal, 100 * rate[8] / ideal), row


def tips_at(model: Transformer, link: Link) -> float:
    """Return T* - 1, at which a ring's bytes take as long as the remaining compute of a rank."""
    per_s = link.bytes_per_ms * 1e3
    return model.layer_flops * per_s / (8 * model.hidden * hardware().flops_per_s)


def tipping(model: Transformer) -> Iterator[float]:
    machine = hardware()
    beyond = tips_at(model, machine.node)
    yield 1 + beyond
    yield 1 + tips_at(model, machine.network)
    for ranks in (2, 4, 8):
        yield 100 / (1 + (ranks - 1) / beyond)
    sent = model.carried_bytes(1)
    yield 2 * model.layers * machine.node.ms(2 * sent)
    yield machine.node.latency_ms * machine.node.bytes_per_ms * 8 / 14 / (2 * model.hidden)
    yield machine.flops_per_s * BYTES["bf16"] / (2 * machine.weights_per_s)
    yield machine.flops_per_s * BYTES["int8"] / (2 * machine.weights_per_s)


def test_break_even_table_follows_its_formulas() -> None:
    rows = table("Break-even points")
    for column, name in enumerate(("7B", "70B"), start=1):
        for row, value in zip(rows, tipping(models()[name]), strict=True):
            assert agrees(row[column], value), row


def test_conclusions_agree_with_the_tables() -> None:
    text = DOCUMENT.read_text()
    machine, large = hardware(), models()["70B"]
    shown = re.search(r"= ([\d.]+) ms and sums .* = ([\d.]+) ms, so 80 layers take ([\d.]+)", text)
    assert shown
    compute = large.layer_flops * machine.tokens / 8 / machine.flops_per_s * 1e3
    reduce = all_reduce_ms(large.carried_bytes(1), 8, machine.node)
    for cell, value in zip(
        shown.groups(), (compute, reduce, 80 * (compute + 2 * reduce)), strict=True
    ):
        assert agrees(cell, value)
    cells = {
        row[n]
        for name in ("Eight GPUs", "Sixty-four GPUs")
        for row in table(name)
        for n in (3, 4, 5)
    }
    conclusions = text.split("\n## Conclusions\n")[1].split("\n## ")[0]
    numbers = set(re.findall(r"\d+\.\d+", conclusions))
    assert len(numbers) > 8
    assert numbers - cells == set()
    usable = machine.usable_bytes / 1e9
    node = re.search(r"8 × (\d+) = (\d+) GB, about (\d+) B parameters", conclusions)
    assert node
    assert [float(digits) for digits in node.groups()[:2]] == [usable, 8 * usable]
    assert abs(float(node[3]) - 8 * usable / BYTES["bf16"]) < 10
    paid = re.search(r"pays with (\d+) % and (\d+) %", conclusions)
    assert paid
    tp8 = [row for row in table("Eight GPUs") if row[1] == "tp8"]
    assert [int(digits) for digits in paid.groups()] == [100 - number(row[-1]) for row in tp8]
    head = re.search(r"([\d.]+) ms for 7B and ([\d.]+) ms for 70B, is left out", text)
    assert head
    for cell, model in zip(head.groups(), models().values(), strict=True):
        assert agrees(cell, model.vocabulary_parameters * 2 / machine.weights_per_s * 1e3)


def test_drifted_number_is_detected() -> None:
    shown: Sequence[tuple[str, float, bool]] = [
        ("13.7", 13.74, True),
        ("13.7", 13.76, False),
        ("1,234 (too large)", 1234.4, True),
        ("–", 1.0, False),
    ]
    assert [agrees(cell, value) for cell, value, _ in shown] == [same for *_, same in shown]
