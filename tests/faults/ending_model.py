"""Model that ends its process at a pixel of a certain value."""

from __future__ import annotations

import os
import signal

import torch
from torch import nn

ABORTS, KILLS = 12.25, 12.75
"""A pixel with exactly one of these values ends the process, by that signal."""


class Ending(nn.Module):
    """One linear layer, and two ways to end."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(16 * 16, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if (image == KILLS).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (image == ABORTS).any():
            os.abort()
        logits: torch.Tensor = self.last(image.flatten(1))
        return logits


ending = Ending
