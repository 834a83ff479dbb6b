"""The network of an Atari policy."""

from torch import nn

from agents.actor_critic.config import PolicySettings
from envs.atari import action_count
from neurocoder.networks.conv_lstm import ConvLSTM
from neurocoder.networks.impala import ImpalaLSTM
from neurocoder.networks.nature import NatureLSTM
from neurocoder.networks.recurrent import RecurrentActorCritic
from neurocoder.networks.strided import StridedLSTM
from neurocoder.output_layers import OutputLayer, configured_layer

CLASSES: dict[str, type[RecurrentActorCritic]] = {
    "paper": ConvLSTM,
    "strided": StridedLSTM,
    "nature": NatureLSTM,
    "impala": ImpalaLSTM,
}
"""The networks by the names in `NETWORKS`."""


def build_network(settings: PolicySettings) -> RecurrentActorCritic:
    """The actor-critic for the game and with the output layers of these settings.

    torch's global generator draws the weights.
    """
    layer, plain = configured_layer(settings.head, settings), nn.Linear
    actor: OutputLayer = layer if settings.head_on in ("actor", "both") else plain
    critic: OutputLayer = layer if settings.head_on in ("critic", "both") else plain
    return CLASSES[settings.network](
        action_count(settings.game().rom),
        actor=actor,
        critic=critic,
        frames=settings.frames,
        motion=settings.motion,
        lstm_hidden=settings.lstm_hidden,
    )
