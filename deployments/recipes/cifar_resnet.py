"""Residual networks for CIFAR-10 of He et al. 2015, "Deep Residual Learning", section 4.2.

    3×3 conv, 16 channels → 3 stages of n blocks: 16 at 32×32, 32 at 16×16, 64 at 8×8
                          → mean over the image → linear

A network has 6n + 2 layers with weights: n = 3 is ResNet-20, n = 9 is ResNet-56. The first block of
a stage with fewer pixels has a shortcut without weights (option A of the paper).

The source in a recipe is ``python:cifar_resnet:resnet20``. Names of tensors are those of the
published checkpoints: ``conv1.weight``, ``layer1.0.bn1.bias``, ``linear.weight``, ...
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

CHANNELS = (16, 32, 64)
"""Channels of the three stages."""


class OptionAShortcut(nn.Module):
    """Shortcut with every second pixel, and channels of zeros before and after the input's.

    ``[batch, inputs, height, width]`` → ``[batch, outputs, ceil(height / 2), ceil(width / 2)]``.
    The paper does not say on which side the zeros are; the published weights have half on each.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut around them: relu(F(x) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        # One module per use: activations are observed and replaced by module.
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else OptionAShortcut(inputs, outputs)
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.relu1(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return self.relu2(residual + self.shortcut(x))


class CifarResNet(nn.Module):
    """``[batch, 3, 32, 32]`` → logits ``[batch, num_classes]``, with 6 × ``blocks`` + 2 layers."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        first, second, third = CHANNELS
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.layer1 = _stage(first, first, blocks, stride=1)
        self.layer2 = _stage(first, second, blocks, stride=2)
        self.layer3 = _stage(second, third, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(third, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # Initialization of the paper: He et al. 2015, "Delving Deep into Rectifiers".
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.pool(x), 1))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (BasicBlock(outputs, outputs, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def resnet20(num_classes: int) -> CifarResNet:
    """Return ResNet-20: 0.27 million parameters, 41 million multiply-accumulates."""
    return CifarResNet(3, num_classes)


def resnet56(num_classes: int) -> CifarResNet:
    """Return ResNet-56: 0.85 million parameters, 125 million multiply-accumulates."""
    return CifarResNet(9, num_classes)
