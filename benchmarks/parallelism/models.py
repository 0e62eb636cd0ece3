"""Models that are cut, with seeded random weights, and the cuts that eager peers may use.

recipe, or a peer → the function of that name → module      blocks(module) → names, in order
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.parallelism.inputs import VOCABULARY


class Embedding(nn.Module):
    """BERT, whose output is the mean of the tokens' last hidden states.

    Token ids int64 ``[batch, tokens]`` without padding → float32 ``[batch, hidden]``.
    """

    def __init__(self, layers: int, hidden: int, heads: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=VOCABULARY,
            num_hidden_layers=layers,
            hidden_size=hidden,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
        )
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        mask = torch.ones_like(input_ids)
        hidden: torch.Tensor = self.bert(input_ids, attention_mask=mask).last_hidden_state
        return hidden.mean(1)


def resnet50() -> nn.Module:
    """Return ResNet-50 with 1000 classes."""
    from torchvision.models import resnet50 as build

    torch.manual_seed(0)
    return build(num_classes=1000).eval()


def bert_base() -> nn.Module:
    """Return BERT-base, 12 layers of 768."""
    torch.manual_seed(0)
    return Embedding(layers=12, hidden=768, heads=12).eval()


def tiny_resnet() -> nn.Module:
    """Return the ResNet of ``--quick``."""
    from torchvision.models import resnet18 as build

    torch.manual_seed(0)
    return build(num_classes=100).eval()


def tiny_bert() -> nn.Module:
    """Return the BERT of ``--quick``."""
    torch.manual_seed(0)
    return Embedding(layers=4, hidden=64, heads=4).eval()


FACTORIES = {factory.__name__: factory for factory in (resnet50, bert_base, tiny_resnet, tiny_bert)}


def blocks(module: nn.Module) -> list[str]:
    """Return the names of the repeated blocks in order; a peer is cut before one of them."""
    if isinstance(module, Embedding):
        return [f"bert.encoder.layer.{n}" for n in range(len(module.bert.encoder.layer))]
    stacks = [(name, part) for name, part in module.named_children() if name.startswith("layer")]
    return [f"{name}.{n}" for name, stack in stacks for n in range(len(list(stack.children())))]
