"""Where the transformer families keep the layers that tensor parallelism cuts.

    x → query, key, value → heads → output ─→ all-reduce → … → up → activation → down ─→ all-reduce
        └─── column ────┘           └ row ┘                  └ column          └ row

A column layer gives every rank some of its outputs, whole heads in attention; the row layer behind
takes just these as inputs, so that one all-reduce follows where both used to answer whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.config.parallel import Sliced


@dataclass(frozen=True)
class Family:
    """Models that name their layers alike. Names are globs, with a dot before each name."""

    name: str
    layers: Mapping[str, Sliced]
    """Linear layers; the family fits a model that has some of each."""

    attention: str
    """Modules whose column layers are cut between heads."""

    divided: tuple[str, ...] = ()
    """Attributes of those modules that count what a rank then has only its share of."""

    fused: Mapping[str, int] = field(default_factory=dict)
    """Column layers that hold several matrices side by side, and how many."""


MULTIHEAD = "torch.nn.MultiheadAttention"
"""Instead of names of attention layers: that class keeps its projections to itself."""

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
        "Llama",  # and what is built like it: Mistral, Qwen
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
