"""All parameters of a network as one flat vector."""

import torch
from torch import Tensor, nn


def flatten_parameters(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Lays all parameters and their gradients into one vector each, (n,), of which they become views.

    An update, a push and a pull are then one operation on one vector.
    """
    parameters = list(network.parameters())
    flat = parameters[0].new_empty(sum(parameter.numel() for parameter in parameters)).detach()
    gradient = torch.zeros_like(flat)
    offset = 0
    for parameter in parameters:
        layout = (parameter.shape, parameter.stride(), offset)  # the strides keep a channels-last layout
        parameter.data = flat.as_strided(*layout).copy_(parameter.data)
        parameter.grad = gradient.as_strided(*layout)
        offset += parameter.numel()
    return flat, gradient
