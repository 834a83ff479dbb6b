"""The network of an Atari policy."""

from dataclasses import asdict

from torch import nn

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
