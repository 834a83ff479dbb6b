"""A multi-layer perceptron with several heads: the Main Network of continual learning (Split MNIST, Split CIFAR)."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from neurocoder.checks import check_sizes
from neurocoder.output_layers import OutputLayer, auxiliary_loss


class MultiHeadMLP(nn.Module):
    """Hidden layers with ReLU, then a head.

    Args:
        widths: widths of the input and of the hidden layers.
        classes: the number of outputs of each head.
        heads: the number of heads, one for all tasks or one for each.
        hidden_layer, head: factories for the layers.

    Raises:
        ValueError: a size is below 1. The message names it.
    """

    def __init__(
        self, widths: Sequence[int], classes: int, heads: int, *, hidden_layer: OutputLayer, head: OutputLayer
    ):
        super().__init__()
        check_sizes(classes=classes, heads=heads)
        self.hidden = nn.ModuleList(hidden_layer(*pair) for pair in itertools.pairwise(widths))
        self.heads = nn.ModuleList(head(widths[-1], classes) for _ in range(heads))

    def forward(self, x: Tensor, head: int) -> tuple[Tensor, Tensor]:
        """(B, widths[0]) -> logits (B, classes) of a head, and the extra losses of all layers and all heads, scalar."""
        return self.logits(x, head), auxiliary_loss(self)

    def logits(self, x: Tensor, head: int) -> Tensor:
        """(B, widths[0]) -> (B, classes)."""
        for layer in self.hidden:
            x = layer(x).relu()
        return self.heads[head](x)
