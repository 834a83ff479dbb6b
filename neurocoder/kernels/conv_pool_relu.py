"""Convolution, pooling and ReLU of frames with one channel, in one pass."""

from pathlib import Path

import torch
from torch import Tensor

from neurocoder.kernels import compiled
from neurocoder.kernels.compiled import DTYPE_NAMES, address

SOURCE = Path(__file__).with_name("conv_pool_relu.cpp")
KERNEL_SIZE = (5, 5)
CHANNEL_MULTIPLE = 32
"""The compiled code takes output channels in blocks whose size divides this."""


def conv_pool_relu(
    x: Tensor, weight: Tensor, bias: Tensor, padding: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Returns `F.relu(F.max_pool2d(F.conv2d(x, weight, bias, padding=padding), 2))` and `chosen`. Not for autograd.

    Maps (N, 1, H, W) to (N, C, H' // 2, W' // 2), channels last. Computes in fp32 and rounds the result to
    `dtype`. `chosen` is that of `pool_relu`. The arguments must be `usable`.
    """
    (N, _, H, W), (C, _, K, _) = x.shape, weight.shape
    x, bias = x.contiguous(), bias.contiguous()
    taps = weight.reshape(C, K * K).T.contiguous()  # (K K, C)
    rows, columns = ((size + 2 * padding - K + 1) // 2 for size in (H, W))
    pooled = x.new_empty((N, rows, columns, C), dtype=dtype)
    chosen = torch.empty(pooled.shape, dtype=torch.uint8)
    arguments = address(taps), address(bias), C, address(pooled), address(chosen)
    forward = compiled.function(SOURCE, "forward", dtype)
    forward(address(x), N, H, W, padding, *arguments, torch.get_num_threads())
    return pooled.permute(0, 3, 1, 2), chosen


def conv_pool_relu_backward(
    gradient: Tensor, chosen: Tensor, x: Tensor, kernel: int, padding: int
) -> tuple[Tensor, Tensor]:
    """The gradient of the output -> gradients of weight (C, 1, K, K) and bias (C,) in fp32."""
    (N, _, H, W), C, K = x.shape, gradient.shape[1], kernel
    x, gradient = x.contiguous(), gradient.contiguous(memory_format=torch.channels_last)
    d_taps, d_bias = x.new_empty((N, K * K, C)), x.new_empty((N, C))
    arguments = address(gradient), address(chosen), C, address(d_taps), address(d_bias)
    backward = compiled.function(SOURCE, "backward", gradient.dtype)
    backward(address(x), N, H, W, padding, *arguments, torch.get_num_threads())
    return d_taps.sum(0).T.reshape(C, 1, K, K), d_bias.sum(0)


def usable(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    """Returns whether the compiled code can take these."""
    return (
        x.dtype == weight.dtype == torch.float32
        and dtype in DTYPE_NAMES
        and weight.shape[1:] == (1, *KERNEL_SIZE)
        and weight.shape[0] % CHANNEL_MULTIPLE == 0
        and compiled.takes(x, weight)
        and compiled.library(SOURCE) is not None
    )
