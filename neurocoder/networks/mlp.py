"""Multi-layer perceptrons: the paper's CIFAR MLP (3072-512-256-c) and Split MNIST MLP (1024-256-256, 2-way heads)."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from neurocoder.output_layers import OutputLayer


class MLP(nn.Module):
    """Layers with ReLU between them. A factory makes the last `adapted` of them.

    Args:
        widths: widths of the input, the hidden layers and the output, at least two.
        output_layer: the factory.
        adapted: the number of layers, counted from the output, that the factory makes.

    Raises:
        ValueError: fewer than two widths, or more adapted layers than layers.
    """

    def __init__(self, widths: Sequence[int], *, output_layer: OutputLayer = nn.Linear, adapted: int = 1):
        super().__init__()
        count = len(widths) - 1
        if count < 1:
            raise ValueError(f"widths is {list(widths)}; it needs an input and an output width")
        if not 0 <= adapted <= count:
            raise ValueError(f"adapted is {adapted}; it must be from 0 to the number of layers, {count}")
        makers = [nn.Linear] * (count - adapted) + [output_layer] * adapted
        self.layers = nn.ModuleList(
            make(*pair) for make, pair in zip(makers, itertools.pairwise(widths), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) with widths[0] numbers for each input -> (B, widths[-1])."""
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)
