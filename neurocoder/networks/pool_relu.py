"""Pooling and ReLU that keep little for the gradient."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

POOL = ([2, 2], [2, 2], [0, 0], [1, 1], False)  # kernel, stride, padding, dilation, whether to round sizes up
LARGEST = 2**15  # pixels of a channel that 16 bits can number


class _PoolReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        pooled, chosen = F.max_pool2d(x, 2, return_indices=True)
        pooled.relu_()
        ctx.save_for_backward(pooled, chosen.to(torch.int16))
        ctx.shape = x.shape
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        pooled, chosen = ctx.saved_tensors
        gradient = gradient * (pooled > 0)
        # Only shape and layout of the input count; its numbers are never looked at.
        like = torch.empty(
            ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last
        )
        return torch.ops.aten.max_pool2d_with_indices_backward(gradient, like, *POOL, chosen.long())


def pool_relu(x: Tensor) -> Tensor:
    """`F.relu(F.max_pool2d(x, 2))`, (N, C, H, W), channels last -> (N, C, H // 2, W // 2).

    For the gradient it keeps its output and which of four pixels was the largest, in 16 bits, where torch keeps the input and
    the number in 64: in the Atari network, whose rollouts keep the graph of every frame, a third of the memory. First
    derivatives only.
    """
    assert x.shape[2] * x.shape[3] <= LARGEST
    return _PoolReLU.apply(x)
