"""Layers that tensor parallelism cuts, by transformer family.

    x → query, key, value → heads → output ─→ all-reduce → … → up → activation → down ─→ all-reduce
        └─── column ────┘           └ row ┘                  └ column          └ row

A column layer gives every rank some of its outputs, whole heads in attention. The row layer after
it takes exactly these as inputs, so that one all-reduce follows each pair of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.config.parallel import Sliced


@dataclass(frozen=True)
class Family:
    """Models with the same layer names. Names are globs, with a dot before each name."""

    name: str
    layers: Mapping[str, Sliced]
    """Linear layers; the family matches a model that has some of each."""

    attention: str
    """Modules whose column layers are cut between heads."""

    divided: tuple[str, ...] = ()
    """Count attributes of those modules, divided by the degree on each rank."""

    fused: Mapping[str, int] = field(default_factory=dict)
    """Column layers with several matrices side by side → number of matrices."""


MULTIHEAD = "torch.nn.MultiheadAttention"
"""Marker in place of attention names: this class has no separate projection layers."""

FAMILIES = (
    Family(
        "BERT",  # and RoBERTa, ELECTRA, MiniLM; and ViT up to Transformers 4
        {
            "*.attention.*.query": "column",
            "*.attention.*.key": "column",
            "*.attention.*.value": "column",
            "*.attention.output.dense": "row",
            "*.intermediate.dense": "column",
            "*.output.dense": "row",
        },
        attention="*.attention.*",
        divided=("num_attention_heads", "all_head_size"),
    ),
    Family(
        "DistilBERT",
        {
            "*.attention.[qkv]_lin": "column",
            "*.attention.out_lin": "row",
            "*.ffn.lin1": "column",
            "*.ffn.lin2": "row",
        },
        attention="*.attention",
        divided=("n_heads", "dim"),
    ),
    Family(
        "ViT",
        {
            "*.attention.[qkv]_proj": "column",
            "*.attention.o_proj": "row",
            "*.mlp.fc1": "column",
            "*.mlp.fc2": "row",
        },
        attention="*.attention",
        divided=("num_attention_heads",),
    ),
    Family(
        "GPT-2",
        {
            "*.attn.c_attn": "column",
            "*.attn.c_proj": "row",
            "*.mlp.c_fc": "column",
            "*.mlp.c_proj": "row",
        },
        attention="*.attn",
        divided=("num_heads", "split_size", "embed_dim"),
        fused={"*.attn.c_attn": 3},
    ),
    Family(
        "Llama",  # and derived models: Mistral, Qwen
        {
            "*.self_attn.[qkv]_proj": "column",
            "*.self_attn.o_proj": "row",
            "*.mlp.gate_proj": "column",
            "*.mlp.up_proj": "column",
            "*.mlp.down_proj": "row",
        },
        attention="*.self_attn",
        divided=("num_heads", "num_key_value_heads"),
    ),
    Family(
        "torchvision's ViT",
        {"*.mlp.0": "column", "*.mlp.3": "row"},
        attention=MULTIHEAD,
    ),
)
