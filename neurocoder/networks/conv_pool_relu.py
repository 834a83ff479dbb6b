"""Convolution, pooling and ReLU of frames with one channel, in one pass."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from neurocoder import compiled
from neurocoder.compiled import TYPES, address
from neurocoder.networks.pool_relu import pool_relu

SOURCE = Path(__file__).with_name("conv_pool_relu.cpp")
KERNEL, BLOCK = (5, 5), 32  # the compiled code's kernel, and a multiple of the channels it takes at a time


def conv_pool_relu(x: Tensor, convolution: nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """`F.relu(F.max_pool2d(convolution(x), 2))` as `dtype`: (N, 1, H, W) -> (N, C, H' // 2, W' // 2), channels last.

    The convolution computes in the precision of its input, has stride 1 and the same padding on all sides. The compiled code
    computes in fp32 whatever `dtype`, and only rounds the outcome. First derivatives only.
    """
    if usable(x, convolution, dtype):
        assert convolution.bias is not None
        return _CompiledConvPoolReLU.apply(
            x, convolution.weight, convolution.bias, convolution.padding[0], dtype
        )
    return pool_relu(convolution(x.to(dtype)))


def usable(x: Tensor, convolution: nn.Conv2d, dtype: torch.dtype) -> bool:
    """Whether the compiled code can take it; it has no gradient of x."""
    return (
        x.dtype == convolution.weight.dtype == torch.float32
        and dtype in TYPES
        and not x.requires_grad
        and convolution.in_channels == 1
        and convolution.kernel_size == KERNEL
        and convolution.out_channels % BLOCK == 0
        and compiled.takes(x, convolution.weight)
        and compiled.library(SOURCE) is not None
    )


class _CompiledConvPoolReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: int, dtype: torch.dtype
    ) -> Tensor:
        (N, _, H, W), (C, _, K, _) = x.shape, weight.shape
        x = x.contiguous()
        taps = weight.reshape(C, K * K).T.contiguous()  # (K K, C)
        rows, columns = ((size + 2 * padding - K + 1) // 2 for size in (H, W))
        pooled = x.new_empty((N, rows, columns, C), dtype=dtype)
        chosen = torch.empty(pooled.shape, dtype=torch.uint8)
        arguments = address(taps), address(bias), C, address(pooled), address(chosen)
        compiled.function(SOURCE, "forward", dtype)(
            address(x), N, H, W, padding, *arguments, torch.get_num_threads()
        )
        ctx.save_for_backward(x, chosen)
        ctx.padding, ctx.kernel = padding, K
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, chosen = ctx.saved_tensors
        (N, _, H, W), C, K = x.shape, gradient.shape[1], ctx.kernel
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        d_taps, d_bias = x.new_empty((N, K * K, C)), x.new_empty((N, C))
        arguments = address(gradient), address(chosen), C, address(d_taps), address(d_bias)
        backward = compiled.function(SOURCE, "backward", gradient.dtype)
        backward(address(x), N, H, W, ctx.padding, *arguments, torch.get_num_threads())
        return None, d_taps.sum(0).T.reshape(C, 1, K, K), d_bias.sum(0), None, None
