"""Pooling and ReLU that keep little for the gradient."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from neurocoder.kernels import compiled
from neurocoder.kernels.compiled import TYPES, address

SOURCE = Path(__file__).with_name("pool_relu.cpp")
POOL = ([2, 2], [2, 2], [0, 0], [1, 1], False)  # kernel, stride, padding, dilation, whether to round sizes up
LARGEST = 2**15  # pixels of a channel that 16 bits can number


def pool_relu(x: Tensor) -> tuple[Tensor, Tensor]:
    """`F.relu(F.max_pool2d(x, 2))`, (N, C, H, W) -> (N, C, H // 2, W // 2), channels last where x is, and `chosen`.

    `chosen` is all that `pool_relu_backward` needs: which of four pixels was the largest, in 8 bits (in 16, where it is not
    compiled), where torch keeps input, output and the number in 64. Outside autograd.
    """
    assert x.shape[2] * x.shape[3] <= LARGEST
    if not usable(x):
        pooled, chosen = F.max_pool2d(x, 2, return_indices=True)
        pooled.relu_()
        return pooled, chosen.to(torch.int16).where(pooled > 0, -1)
    N, C, H, W = x.shape
    pooled = x.new_empty((N, H // 2, W // 2, C)).permute(0, 3, 1, 2)  # channels last
    chosen = torch.empty((N, H // 2, W // 2, C), dtype=torch.uint8)
    pool = compiled.function(SOURCE, "pool", x.dtype)
    pool(address(x), N, H, W, C, address(pooled), address(chosen), torch.get_num_threads())
    return pooled, chosen


def pool_relu_backward(gradient: Tensor, chosen: Tensor, size: tuple[int, int]) -> Tensor:
    """The gradient of the output (N, C, H // 2, W // 2) -> that of the input (N, C, H, W), channels last; `size` is (H, W)."""
    (N, C, _, _), (H, W) = gradient.shape, size
    if chosen.dtype == torch.uint8:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        x = gradient.new_empty((N, H, W, C)).permute(0, 3, 1, 2)
        spread = compiled.function(SOURCE, "spread", x.dtype)
        spread(address(gradient), address(chosen), N, H, W, C, address(x), torch.get_num_threads())
        return x
    # Only shape and layout of the input count; its numbers are never looked at.
    like = gradient.new_empty((N, H, W, C)).permute(0, 3, 1, 2)
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    return backward(gradient * (chosen >= 0), like, *POOL, chosen.clamp(min=0).long())


def usable(x: Tensor) -> bool:
    """Whether the compiled code can take it."""
    return (
        x.dtype in TYPES
        and x.is_contiguous(memory_format=torch.channels_last)
        and compiled.takes(x)
        and compiled.library(SOURCE) is not None
    )
