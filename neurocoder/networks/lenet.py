"""LeNet for 32 x 32 colour images with five layers of weights, the LeNet that fits the paper's Table 7 (2.1 M)."""

import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.checks import check_sizes
from neurocoder.networks.mlp import MLP
from neurocoder.output_layers import OutputLayer


class LeNet(nn.Module):
    """Two 5 x 5 convolutions (32 and 64 channels), each with ReLU and 2 x 2 max-pooling, then 4096-500-84-classes.

    Args:
        output_layer: factory for the last `adapted` affine layers.
        adapted: the number of layers, counted from the output, that the factory makes. The paper's count fits two.

    Raises:
        ValueError: `classes` is below 1, or `adapted` above 3, the number of affine layers.
    """

    def __init__(self, classes: int, *, output_layer: OutputLayer = nn.Linear, adapted: int = 2):
        super().__init__()
        check_sizes(classes=classes)
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.classifier = MLP((64 * 8 * 8, 500, 84, classes), output_layer=output_layer, adapted=adapted)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> logits (B, classes)."""
        x = F.max_pool2d(self.conv1(images), 2).relu()  # (B, 32, 16, 16)
        x = F.max_pool2d(self.conv2(x), 2).relu()  # (B, 64, 8, 8)
        return self.classifier(x)
