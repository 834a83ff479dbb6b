"""Pooling and ReLU that keep little for the gradient."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from neurocoder import compiled
from neurocoder.compiled import TYPES, address

SOURCE = Path(__file__).with_name("pool_relu.cpp")
POOL = ([2, 2], [2, 2], [0, 0], [1, 1], False)  # kernel, stride, padding, dilation, whether to round sizes up
LARGEST = 2**15  # pixels of a channel that 16 bits can number


def pool_relu(x: Tensor) -> Tensor:
    """`F.relu(F.max_pool2d(x, 2))`, (N, C, H, W), channels last -> (N, C, H // 2, W // 2).

    For the gradient it keeps which of four pixels was the largest, in 8 bits (in 16, and its output, where it is not compiled),
    where torch keeps the input and the number in 64. First derivatives only.
    """
    assert x.shape[2] * x.shape[3] <= LARGEST
    return (_CompiledPoolReLU if usable(x) else _PoolReLU).apply(x)


def usable(x: Tensor) -> bool:
    """Whether the compiled code can take it."""
    return (
        x.dtype in TYPES
        and x.is_contiguous(memory_format=torch.channels_last)
        and compiled.takes(x)
        and compiled.library(SOURCE) is not None
    )


class _CompiledPoolReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        N, C, H, W = x.shape
        pooled = x.new_empty((N, H // 2, W // 2, C)).permute(0, 3, 1, 2)  # channels last
        chosen = torch.empty(pooled.shape, dtype=torch.uint8)  # (N, H // 2, W // 2, C) in memory
        pool = compiled.function(SOURCE, "pool", x.dtype)
        pool(address(x), N, H, W, C, address(pooled), address(chosen), torch.get_num_threads())
        ctx.save_for_backward(chosen)
        ctx.shape = x.shape
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (chosen,) = ctx.saved_tensors
        N, C, H, W = ctx.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        x = gradient.new_empty((N, H, W, C)).permute(0, 3, 1, 2)
        spread = compiled.function(SOURCE, "spread", x.dtype)
        spread(address(gradient), address(chosen), N, H, W, C, address(x), torch.get_num_threads())
        return x


class _PoolReLU(torch.autograd.Function):
    """The same in torch."""

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
