"""Convolutions with ReLU and pooling over a few frames at a time, and their gradient over all frames together.

To act, an agent needs the features of its few newest frames, step after step. In autograd's graph each step has a gradient of its
own, with little to do for each operation. For 20 steps of 4 frames together it takes two thirds of the time (one core of a Xeon).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from neurocoder.kernels import conv_pool_relu as one_channel
from neurocoder.kernels.pool_relu import pool_relu, pool_relu_backward

TOGETHER = 32  # frames whose gradient is computed together: more gain less than the copies cost


class Activations(NamedTuple):
    """What the convolutions leave of N frames, for their gradient."""

    inputs: tuple[Tensor, ...]  # of each convolution, (N, C, H, W)
    chosen: tuple[Tensor, ...]  # of each pooling, as of `pool_relu`
    output: Tensor  # (N, C, H, W), of the last pooling


@torch.no_grad()
def activations(frames: Tensor, convolutions: Iterable[nn.Module], dtype: torch.dtype) -> Activations:
    """Of frames (N, 1, H, W) through each convolution, with stride 1, ReLU and 2 x 2 max-pooling, computed in `dtype` (a first
    convolution that is compiled always in fp32)."""
    x, inputs, chosen = frames, [], []
    for weight, bias, padding in map(_parts, convolutions):
        if one_channel.usable(x, weight, dtype):
            inputs.append(x)
            x, which = one_channel.conv_pool_relu(x, weight, bias, padding, dtype)
        else:
            inputs.append(x.to(dtype))
            # ReLU after pooling is the same as before, on a quarter of the numbers.
            x, which = pool_relu(F.conv2d(inputs[-1], weight.to(dtype), bias.to(dtype), padding=padding))
        chosen.append(which)
    return Activations(tuple(inputs), tuple(chosen), x)


def features(played: Sequence[Activations], convolutions: Iterable[nn.Module]) -> Tensor:
    """The outputs of all that was played, one after the other, (N, C H W), in the weights' precision.

    They have a gradient of the weights: first derivatives only, and not of the frames. The weights must be those that it was
    played with.
    """
    parts = [_parts(convolution) for convolution in convolutions]
    paddings = [padding for _, _, padding in parts]
    return _Features.apply(played, paddings, *(tensor for part in parts for tensor in part[:2]))


def _parts(convolution: nn.Module) -> tuple[Tensor, Tensor, int]:
    """Weight, bias, padding."""
    assert isinstance(convolution, nn.Conv2d) and isinstance(convolution.padding[0], int)
    assert convolution.bias is not None
    return convolution.weight, convolution.bias, convolution.padding[0]


class _Features(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, played: Sequence[Activations], paddings: list[int], *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        ctx.played, ctx.paddings = played, paddings
        return torch.cat([one.output.flatten(1) for one in played]).to(parameters[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        parameters = ctx.saved_tensors
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for together in _groups(ctx.played):
            own, gradient = gradient.tensor_split([sum(len(one.output) for one in together)])
            for total, part in zip(sums, _gradients(own, together, parameters, ctx.paddings), strict=True):
                total += part
        return None, None, *sums


def _groups(played: Sequence[Activations]) -> Iterator[list[Activations]]:
    """The same in groups of `TOGETHER` frames or a few more; fewer in the last."""
    group: list[Activations] = []
    for one in played:
        group.append(one)
        if sum(len(member.output) for member in group) >= TOGETHER:
            yield group
            group = []
    if group:
        yield group


def _gradients(
    gradient: Tensor, played: Sequence[Activations], parameters: Sequence[Tensor], paddings: Sequence[int]
) -> list[Tensor]:
    """The gradient of the features (N, C H W) of one group -> those of the parameters."""
    output = played[0].output
    gradient = gradient.unflatten(1, output.shape[1:]).to(output.dtype)
    gradients: list[Tensor] = []  # of the last bias, the last weight and so on
    for layer in reversed(range(len(paddings))):
        x = _joined([one.inputs[layer] for one in played])
        chosen = _joined([one.chosen[layer] for one in played])
        gradient, d_weight, d_bias = _backward(
            gradient, chosen, x, parameters[2 * layer], paddings[layer], layer
        )
        gradients += [d_bias, d_weight]
    return gradients[::-1]


def _joined(tensors: list[Tensor]) -> Tensor:
    """One after the other; of one alone no copy."""
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _backward(
    gradient: Tensor, chosen: Tensor, x: Tensor, weight: Tensor, padding: int, layer: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of a pooling's output -> that of its convolution's input (not of the first), weight and bias."""
    K, dtype = weight.shape[-1], gradient.dtype
    if one_channel.usable(x, weight, dtype):
        d_weight, d_bias = one_channel.conv_pool_relu_backward(gradient, chosen, x, K, padding)
        return gradient, d_weight, d_bias
    rows, columns = (size + 2 * padding - K + 1 for size in x.shape[-2:])
    gradient = pool_relu_backward(gradient, chosen, (rows, columns))
    # bias sizes, stride, padding, dilation, not transposed, output padding, groups, whether of input, weight and bias
    geometry = [len(weight)], [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, [layer > 0, True, True]
    return torch.ops.aten.convolution_backward(gradient, x, weight.to(dtype), *geometry)
