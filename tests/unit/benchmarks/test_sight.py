"""The bench of sight, on networks whose sight is known."""

from dataclasses import replace

import pytest
import torch

from agents.a3c.config import A3CConfig
from neurocoder.networks.nature import NatureLSTM
from tests.benchmarks.sight import look, random_play, sight

CONFIG = A3CConfig(
    env="Breakout", head="mlp", network="nature", workers=0, envs_per_worker=2, rollout_steps=5, precision="fp32",
    optimizer="adam", learning_rate=1e-30,
)  # fmt: skip


def test_a_network_that_does_not_learn_keeps_its_sight_and_one_that_is_overturned_does_not():
    assert look(CONFIG, 20)["share"] == pytest.approx(1)
    assert abs(look(replace(CONFIG, learning_rate=0.1), 20)["share"] - 1) > 0.1


def test_a_network_whose_lstm_ignores_its_input_is_blind():
    network = NatureLSTM(4)
    observations, starts = random_play(CONFIG)
    assert observations.shape == (200, 4, 1, 80, 80) and starts.sum() >= 4
    assert sight(network, observations, starts)["network/lstm_deviation"] > 0.005
    for parameter in network.lstm.parameters():
        torch.nn.init.zeros_(parameter)
    assert sight(network, observations, starts)["network/lstm_deviation"] == 0
