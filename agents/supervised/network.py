"""The Main Network of a supervised run."""

import torch
from torch import nn

from agents.supervised.config import SupervisedConfig
from envs import algorithms
from envs.images import DATA_SETS
from neurocoder.networks.densenet import DenseNet
from neurocoder.networks.gru import GRURegressor
from neurocoder.networks.lenet import LeNet
from neurocoder.networks.mlp import MLP
from neurocoder.networks.ntm import NTM
from neurocoder.output_layers import configured_layer
from neurocoder.random_projection import RandomProjection


def build_network(config: SupervisedConfig) -> nn.Module:
    """Makes the network with the configured layer, with weights drawn from torch's global generator."""
    layer = configured_layer(config.layer, config, bias=config.bias)
    if config.network == "gru":
        return GRURegressor(2, config.hidden, output_layer=layer)
    if config.network == "ntm":
        return NTM(algorithms.WIDTH, algorithms.BITS, hidden=config.hidden, output_layer=layer)
    images = DATA_SETS[config.task]
    match config.network:
        case "linear":
            width = images.channels * images.size**2
            if config.projection is None:
                return MLP((width, images.classes), output_layer=layer)
            projection = RandomProjection(width, config.projection)
            return nn.Sequential(nn.Flatten(), projection, layer(config.projection, images.classes))
        case "mlp":
            widths = (images.channels * images.size**2, 512, 256, images.classes)
            return MLP(widths, output_layer=layer, adapted=config.adapted)
        case "lenet":
            network: nn.Module = LeNet(images.classes, output_layer=layer, adapted=config.adapted)
        case _:
            network = DenseNet(images.classes, output_layer=layer)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
