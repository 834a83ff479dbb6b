"""The network of a continual-learning run: an MLP with one head for all tasks, or one for each."""

import torch
from torch import Tensor, nn

from agents.continual.config import ContinualConfig
from neurocoder.networks.multi_head_mlp import MultiHeadMLP
from neurocoder.output_layers import configured_layer


def build_network(config: ContinualConfig, features: int, classes: int, heads: int) -> MultiHeadMLP:
    """Makes the configured network, with weights drawn from torch's global generator.

    Split MNIST has two hidden layers, Split CIFAR three (Table 7). Plain heads have a bias. Other layers have one
    only if the config says so.
    """
    settings = config.layer_settings()
    chosen, plain = (configured_layer(name, settings, bias=config.bias) for name in (config.layer, "mlp"))
    adapted_head = config.layer != "mlp" and config.adapt != "hidden"
    depth = 2 if config.benchmark == "split-mnist" else 3
    return MultiHeadMLP(
        (features, *[config.hidden] * depth),
        classes,
        heads,
        hidden_layer=plain if config.adapt == "heads" else chosen,
        head=chosen if adapted_head else configured_layer("mlp", settings),
    )


def flatten(network: nn.Module) -> Tensor:
    """Copies all parameters into one vector (n,)."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def unflatten(network: nn.Module, theta: Tensor) -> dict[str, Tensor]:
    """Splits a vector (n,) into the network's parameters by name. They are views of it."""
    named = dict(network.named_parameters())
    parts = theta.split([parameter.numel() for parameter in named.values()])
    return {name: part.view(named[name].shape) for name, part in zip(named, parts, strict=True)}
