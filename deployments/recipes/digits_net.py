"""Small convolutional network for 16×16 images in grey, trained in seconds on the bundled digits.

[batch, 1, 16, 16] → 2 convolutions, the second with stride 2 → 2 linear layers → logits
"""

from __future__ import annotations

from torch import nn


def small(num_classes: int) -> nn.Sequential:
    """Return the network with random weights: 0.5 million parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, 256),
        nn.ReLU(),
        nn.Linear(256, num_classes),
    )
