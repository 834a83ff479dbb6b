"""Pooling and ReLU that store little for the gradient."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from neurocoder.kernels import compiled
from neurocoder.kernels.compiled import DTYPE_NAMES, address

SOURCE = Path(__file__).with_name("pool_relu.cpp")
POOLING = ([2, 2], [2, 2], [0, 0], [1, 1], False)
"""Kernel, stride, padding, dilation, and whether to round sizes up."""
PIXEL_LIMIT = 2**15
"""The largest count of pixels of a channel that 16 bits can number."""


def pool_relu(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `F.relu(F.max_pool2d(x, 2))`, (N, C, H, W) -> (N, C, H // 2, W // 2), and `chosen`. Not for autograd.

    The result has channels last where x has. `chosen` is all that `pool_relu_backward` needs: which of four
    pixels was the largest, in 8 bits, or in 16 without compiled code. Torch stores input, output and 64 bits
    instead.
    """
    assert x.shape[2] * x.shape[3] <= PIXEL_LIMIT
    if not usable(x):
        pooled, chosen = F.max_pool2d(x, 2, return_indices=True)
        pooled.relu_()
        return pooled, chosen.to(torch.int16).where(pooled > 0, -1)
    N, C, H, W = x.shape
    pooled = x.new_empty((N, H // 2, W // 2, C)).permute(0, 3, 1, 2)  # (N, C, H // 2, W // 2), channels last
    chosen = torch.empty((N, H // 2, W // 2, C), dtype=torch.uint8)
    pool = compiled.function(SOURCE, "pool", x.dtype)
    pool(address(x), N, H, W, C, address(pooled), address(chosen), torch.get_num_threads())
    return pooled, chosen


def pool_relu_backward(gradient: Tensor, chosen: Tensor, size: tuple[int, int]) -> Tensor:
    """The gradient of the output (N, C, H // 2, W // 2) -> gradient of the input (N, C, H, W), channels last.

    Args:
        size: (H, W).
    """
    (N, C, _, _), (H, W) = gradient.shape, size
    if chosen.dtype == torch.uint8:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        x = gradient.new_empty((N, H, W, C)).permute(0, 3, 1, 2)
        spread = compiled.function(SOURCE, "spread", x.dtype)
        spread(address(gradient), address(chosen), N, H, W, C, address(x), torch.get_num_threads())
        return x
    # Torch uses only the shape and layout of the input, not its numbers.
    like = gradient.new_empty((N, H, W, C)).permute(0, 3, 1, 2)
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    return backward(gradient * (chosen >= 0), like, *POOLING, chosen.clamp(min=0).long())


def usable(x: Tensor) -> bool:
    """Returns whether the compiled code can take x."""
    return (
        x.dtype in DTYPE_NAMES
        and x.is_contiguous(memory_format=torch.channels_last)
        and compiled.takes(x)
        and compiled.library(SOURCE) is not None
    )
