"""Convolutions with ReLU, a few frames a forward pass, and one gradient for the frames of many passes.

An agent that acts needs the features of its few newest frames, step after step. In autograd's graph each step
has its own gradient, with little to do for each operation. One gradient for 20 passes of 4 frames takes two
thirds of the time (one core of a Xeon).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from neurocoder.kernels import conv_pool_relu as one_channel
from neurocoder.kernels.pool_relu import pool_relu, pool_relu_backward

BACKWARD_FRAMES = 32
"""Frames whose gradient is computed together. More frames gain less than the copies cost."""


class Activations(NamedTuple):
    """The tensors that one forward pass over N frames stores for its gradient."""

    inputs: tuple[Tensor, ...]
    """The input of each convolution, (N, C, H, W)."""
    chosen: tuple[Tensor, ...]
    """The pixels that each pooling chose; see `pool_relu`. Empty without pooling."""
    output: Tensor
    """The output of the last layer, (N, C, H, W)."""


class Geometry(NamedTuple):
    """Where a convolution's kernel stands."""

    stride: int
    padding: int


@torch.no_grad()
def activations(
    frames: Tensor, convolutions: Iterable[nn.Module], dtype: torch.dtype, *, pooled: bool = True
) -> Activations:
    """Passes frames (N, C, H, W) through each convolution and a ReLU.

    Computes in `dtype`, but a compiled first convolution always in fp32.

    Args:
        pooled: 2 x 2 max-pooling follows each convolution. Their strides must be 1 then.
    """
    x, inputs, chosen = frames, [], []
    for weight, bias, geometry in map(_parts, convolutions):
        if pooled and one_channel.usable(x, weight, dtype):
            inputs.append(x)
            x, pixels = one_channel.conv_pool_relu(x, weight, bias, geometry.padding, dtype)
            chosen.append(pixels)
            continue
        inputs.append(x.to(dtype))
        x = F.conv2d(inputs[-1], weight.to(dtype), bias.to(dtype), *geometry)
        if pooled:
            # ReLU after pooling gives the same as ReLU before pooling, on a quarter of the numbers.
            x, pixels = pool_relu(x)
            chosen.append(pixels)
        else:
            x.relu_()
    return Activations(tuple(inputs), tuple(chosen), x)


def features(passes: Sequence[Activations], convolutions: Iterable[nn.Module]) -> Tensor:
    """The outputs of all passes, one after the other, (N, C H W), in the precision of the weights.

    They have a first derivative for the weights and none for the frames. The weights must be those of the passes.
    """
    parts = [_parts(convolution) for convolution in convolutions]
    geometries = [geometry for _, _, geometry in parts]
    return _Features.apply(passes, geometries, *(tensor for part in parts for tensor in part[:2]))


def _parts(convolution: nn.Module) -> tuple[Tensor, Tensor, Geometry]:
    """Returns weight, bias and geometry."""
    assert isinstance(convolution, nn.Conv2d) and isinstance(convolution.padding[0], int)
    assert convolution.bias is not None
    return convolution.weight, convolution.bias, Geometry(convolution.stride[0], convolution.padding[0])


class _Features(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, passes: Sequence[Activations], geometries: list[Geometry], *parameters: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*parameters)
        ctx.passes, ctx.geometries = passes, geometries
        outputs = torch.cat([activations.output.flatten(1) for activations in passes])
        return outputs.to(parameters[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        parameters = ctx.saved_tensors
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for group in _groups(ctx.passes):
            group_gradient, gradient = gradient.tensor_split([_frame_count(group)])
            group_sums = _gradients(group_gradient, group, parameters, ctx.geometries)
            for total, part in zip(sums, group_sums, strict=True):
                total += part
        return None, None, *sums


def _groups(passes: Sequence[Activations]) -> Iterator[list[Activations]]:
    """Yields the passes in groups of `BACKWARD_FRAMES` frames or a few more. The last group may have fewer."""
    group: list[Activations] = []
    for activations in passes:
        group.append(activations)
        if _frame_count(group) >= BACKWARD_FRAMES:
            yield group
            group = []
    if group:
        yield group


def _frame_count(passes: Sequence[Activations]) -> int:
    return sum(len(activations.output) for activations in passes)


def _gradients(
    gradient: Tensor,
    passes: Sequence[Activations],
    parameters: Sequence[Tensor],
    geometries: Sequence[Geometry],
) -> list[Tensor]:
    """The gradient of the features (N, C H W) of one group of passes -> gradients of the parameters."""
    output = _concatenated([activations.output for activations in passes])
    gradient = gradient.unflatten(1, output.shape[1:]).to(output.dtype)
    # Gradients of the last bias, the last weight, the bias before it and so on.
    gradients: list[Tensor] = []
    for layer in reversed(range(len(geometries))):
        x = _concatenated([activations.inputs[layer] for activations in passes])
        weight = parameters[2 * layer]
        if passes[0].chosen:
            chosen = _concatenated([activations.chosen[layer] for activations in passes])
            if one_channel.usable(x, weight, gradient.dtype):
                padding = geometries[layer].padding
                gradients += one_channel.conv_pool_relu_backward(
                    gradient, chosen, x, weight.shape[-1], padding
                )[::-1]
                continue
            gradient = pool_relu_backward(gradient, chosen, _size(x, weight, geometries[layer]))
        else:
            gradient = torch.ops.aten.threshold_backward(gradient, output, 0)  # of the ReLU
        gradient, d_weight, d_bias = _convolution_backward(
            gradient, x, weight.to(gradient.dtype), geometries[layer], with_input=layer > 0
        )
        gradients += [d_bias, d_weight]
        output = x
    return gradients[::-1]


def _concatenated(tensors: list[Tensor]) -> Tensor:
    """Joins tensors along the first axis; does not copy a single one."""
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _size(x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[int, int]:
    """Returns the rows and columns of a convolution's output, before its pooling."""
    rows, columns = (
        (size + 2 * geometry.padding - weight.shape[-1]) // geometry.stride + 1 for size in x.shape[-2:]
    )
    return rows, columns


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, *, with_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of a convolution's output -> gradients of its input, weight and bias.

    The gradient of the input is not computed unless `with_input`.
    """
    stride, padding = geometry
    # Bias sizes, stride, padding, dilation, transposed, output padding, groups; gradients wanted.
    more = [len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [with_input, True, True]
    return torch.ops.aten.convolution_backward(gradient, x, weight, *more)
