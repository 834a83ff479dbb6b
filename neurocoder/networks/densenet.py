"""DenseNet-100, growth 12, without bottlenecks or compression (Huang et al. 2017), for 32 x 32 colour images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.checks import check_sizes
from neurocoder.output_layers import OutputLayer

GROWTH = 12
LAYERS_PER_BLOCK = 32
"""(100 - 4) / 3."""
FIRST_CHANNELS = 16
"""Output channels of the first convolution."""


class DenseNet(nn.Module):
    """Three dense blocks of 32 layers. The factory makes the output layer, which sees 1168 pooled features.

    Raises:
        ValueError: a size is below 1. The message names it.
    """

    def __init__(self, classes: int, *, output_layer: OutputLayer = nn.Linear):
        super().__init__()
        check_sizes(classes=classes)
        self.first = nn.Conv2d(3, FIRST_CHANNELS, 3, padding=1, bias=False)
        channels = FIRST_CHANNELS
        stages: list[nn.Module] = []
        for block in range(3):
            for _ in range(LAYERS_PER_BLOCK):
                stages.append(DenseLayer(channels))
                channels += GROWTH
            if block < 2:
                stages.append(Transition(channels))
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.output = output_layer(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> logits (B, classes)."""
        x = self.norm(self.stages(self.first(images))).relu()  # (B, 1168, 8, 8)
        return self.output(x.mean(dim=(2, 3)))


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 3 x 3 convolution. Its output channels are appended to its input channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(self.norm(x).relu())), dim=1)


class Transition(nn.Module):
    """Batch norm, ReLU, 1 x 1 convolution, then pooling that halves the image."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(self.norm(x).relu()), 2)
