"""All parameters of a network as one flat vector."""

import torch
from torch import Tensor, nn


def flatten_parameters(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Moves all parameters into one vector (n,), and their gradients into another. They become views of it.

    An update, a push and a pull are then one operation on one vector.
    """
    parameters = list(network.parameters())
    flat = parameters[0].new_empty(sum(parameter.numel() for parameter in parameters)).detach()
    gradient = torch.zeros_like(flat)
    offset = 0
    for parameter in parameters:
        # The strides keep a channels-last layout.
        layout = (parameter.shape, parameter.stride(), offset)
        parameter.data = flat.as_strided(*layout).copy_(parameter.data)
        parameter.grad = gradient.as_strided(*layout)
        offset += parameter.numel()
    return flat, gradient
