"""A fixed random projection. The paper narrows wide inputs in this way before a Neurocoder (MNIST, 784 -> 200)."""

import math

import torch
from torch import Tensor, nn

from neurocoder.checks import check_sizes


class RandomProjection(nn.Module):
    """z = x G with G (in_features, out_features) drawn once from N(0, 1 / in_features) and never trained.

    The paper gives no scale. This scale keeps the entries of z as large as those of x. G is a buffer, so it is
    saved with the network.
    """

    G: Tensor

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        self.register_buffer("G", torch.randn(in_features, out_features) / math.sqrt(in_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return x @ self.G
