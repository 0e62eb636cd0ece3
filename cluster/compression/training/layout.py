"""How the tensors of a module lie in memory while it trains."""

from __future__ import annotations

import torch


def layout_of(module: torch.nn.Module) -> torch.memory_format:
    """Channels last: oneDNN's and cuDNN's convolutions read and write it without reordering."""
    # Weights of three-dimensional convolutions know no such layout.
    if any(each.dim() == 5 for each in module.parameters()):
        return torch.contiguous_format
    return torch.channels_last
