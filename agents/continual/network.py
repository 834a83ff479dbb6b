"""The network of a continual-learning run: an MLP with one head for all tasks, or one for each."""

import torch
from torch import Tensor, nn

from agents.continual.config import ContinualConfig
from neurocoder.networks.multi_head_mlp import MultiHeadMLP
from neurocoder.output_layers import configured_layer


def build_network(config: ContinualConfig, features: int, classes: int, heads: int) -> MultiHeadMLP:
    """The configured network, weights drawn from torch's global generator.

    Split MNIST has two hidden layers, Split CIFAR three (Table 7). Plain heads have a bias, other layers only if the config
    says so.
    """
    chosen, plain = (
        configured_layer(config.layer, config, bias=config.bias),
        configured_layer("mlp", config, bias=config.bias),
    )
    adapted_head = config.layer != "mlp" and config.adapt != "hidden"
    depth = 2 if config.benchmark == "split-mnist" else 3
    return MultiHeadMLP(
        (features, *[config.hidden] * depth),
        classes,
        heads,
        hidden_layer=plain if config.adapt == "heads" else chosen,
        head=chosen if adapted_head else configured_layer("mlp", config),
    )


def flatten(network: nn.Module) -> Tensor:
    """All parameters as one vector (n,), a copy."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def unflatten(network: nn.Module, theta: Tensor) -> dict[str, Tensor]:
    """A vector (n,) as parameters of the network, by name: views."""
    named = dict(network.named_parameters())
    parts = theta.split([parameter.numel() for parameter in named.values()])
    return {name: part.view(named[name].shape) for name, part in zip(named, parts, strict=True)}
