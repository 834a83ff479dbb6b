"""Evaluation against a plain loop over one game after another."""

import numpy as np
import pytest
import torch

from agents.a3c.evaluation import play
from envs.atari import AtariGames, AtariSettings
from neurocoder.networks.conv_lstm import ConvLSTM

SETTINGS = AtariSettings("pong", max_frames=240)
GAMES, SEED = 3, 5


@pytest.fixture(scope="module")
def network() -> ConvLSTM:
    """Its choices hang on the whole history: large weights, no bias towards one action."""
    torch.manual_seed(0)
    network = ConvLSTM(6).eval().requires_grad_(False)
    network.lstm.weight_hh *= 4
    torch.nn.init.normal_(network.actor.weight)
    return network


def greedy_actions(network: ConvLSTM, game: int) -> list[int]:
    """Of one game until its end, with an LSTM cell stepped by hand."""
    games = AtariGames(SETTINGS, GAMES)
    frames, actions = games.reset([SEED]), []
    h, c = torch.zeros(1, 512), torch.zeros(1, 512)
    while True:
        features = network.features(torch.from_numpy(frames[game : game + 1]))
        h, c = network.lstm(features, (h, c))
        action = int((network.actor.weight @ h[0] + network.actor.bias).argmax())
        step = games.step(np.full(GAMES, action))  # the other games do not matter to this one
        if step.reset[game]:
            games.close()
            return actions
        actions.append(action)
        frames = step.observation


def test_a_policy_acts_as_in_a_plain_loop_over_its_own_history(network):
    screens = []
    episodes = play(network, SETTINGS, episodes=GAMES, seed=SEED, greedy=True, on_screen=screens.append)
    actions = greedy_actions(network, 0)
    assert len(set(actions)) > 1
    shown = AtariGames(SETTINGS, 1, screen=True)
    expected = [shown.reset([SEED])[0, 0]] + [
        shown.step(np.array([action])).observation[0, 0] for action in actions
    ]
    shown.close()
    assert len(screens) == len(expected) == episodes[0].length + 1
    for screen, other in zip(screens, expected, strict=True):
        np.testing.assert_array_equal(screen, other)
    assert [episode.length for episode in episodes] == [
        len(greedy_actions(network, game)) for game in range(GAMES)
    ]


def test_the_state_before_a_game_is_two_tensors_of_zeros_that_share_nothing(network):
    h, c = network.initial_state(2)
    h += 1
    assert h.shape == c.shape == (2, 512) and (c == 0).all()


def test_the_same_seed_plays_the_same_games_and_another_seed_others(network):
    longer = AtariSettings("pong", max_frames=1_000)
    seen = []
    for seed in (1, 1, 2):
        screens: list[np.ndarray] = []
        episodes = play(network, longer, episodes=2, seed=seed, on_screen=screens.append)
        seen.append((episodes, np.array(screens)))
    (episodes, screens), (again, screens_again), (_, other) = seen
    assert episodes == again and np.array_equal(screens, screens_again)
    assert not np.array_equal(screens, other)
