"""The network of an Atari policy."""

from torch import nn

from agents.actor_critic.config import PolicySettings
from envs.atari import action_count
from neurocoder.networks.conv_lstm import ConvLSTM
from neurocoder.output_layers import OutputLayer, configured_layer

BLOCKS = ("convolutions", "lstm", "actor", "critic")
"""The parts of the network, in the order of their parameters."""


def build_network(settings: PolicySettings) -> ConvLSTM:
    """The actor-critic for the game and with the output layers of these settings.

    torch's global generator draws the weights.
    """
    layer, plain = configured_layer(settings.head, settings), nn.Linear
    actor: OutputLayer = layer if settings.head_on in ("actor", "both") else plain
    critic: OutputLayer = layer if settings.head_on in ("critic", "both") else plain
    return ConvLSTM(action_count(settings.game().rom), actor=actor, critic=critic)
