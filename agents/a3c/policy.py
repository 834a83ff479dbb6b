"""The policy network of an A3C run, and its parameters as one flat vector."""

from dataclasses import asdict

import torch
from torch import Tensor, nn

from agents.a3c.config import A3CConfig
from neurocoder import OutputLayer, output_layer
from neurocoder.networks.conv_lstm import ConvLSTM


def build_policy(config: A3CConfig, actions: int) -> ConvLSTM:
    """The actor-critic with the configured head, weights drawn from torch's global generator."""
    settings = {"mlp": {}, "hypernet": asdict(config.hypernet), "neurocoder": asdict(config.neurocoder)}
    head = output_layer(config.head, **settings[config.head])
    plain: OutputLayer = nn.Linear
    return ConvLSTM(
        actions,
        actor=head if config.head_on in ("actor", "both") else plain,
        critic=head if config.head_on in ("critic", "both") else plain,
    )


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
