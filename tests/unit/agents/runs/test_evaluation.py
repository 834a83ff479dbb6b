"""Games played with a policy against a plain loop over one game after another."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from agents.actor_critic.play import play
from agents.actor_critic.policy import Policy
from envs.atari import AtariGames, AtariSettings, Episode, action_count
from neurocoder.networks.conv_lstm import ConvLSTM

PONG = AtariSettings("pong", max_frames=240)
BREAKOUT = AtariSettings("breakout", max_frames=2_000)
GAMES, SEED = 3, 5


@cache
def policy_for(settings: AtariSettings) -> Policy:
    """Makes a policy whose choices depend on the whole history.

    Its weights are large, and its biases leave no action the likeliest for ever.
    """
    torch.manual_seed(0)
    network = ConvLSTM(action_count(settings.rom)).requires_grad_(False)
    network.lstm.weight_hh *= 4
    torch.nn.init.normal_(network.actor.weight)
    games = AtariGames(settings, 1)
    features = network.features(torch.from_numpy(games.reset([SEED])))
    games.close()
    h, c = network.initial_state(1)
    for _ in range(10):
        h, c = network.lstm(features, (h, c))
    network.actor.bias -= network.actor(h)[0]
    return Policy(network, settings)


@cache
def played_by_hand(settings: AtariSettings, game: int) -> tuple[list[int], Episode]:
    """Plays one game greedily with an LSTM cell stepped by hand. Returns all actions and the finished game."""
    games, network = AtariGames(settings, 1), policy_for(settings).network
    frames, actions = games.reset([SEED], first=game), []
    empty = torch.zeros(1, 512)
    h, c = empty, empty
    score, length, fires, ended = 0.0, 0, False, False
    while not ended:
        features = network.features(torch.from_numpy(frames))
        h, c = network.lstm(features, (h, c))
        actions.append(int((network.actor.weight @ h[0] + network.actor.bias).argmax()))
        lives = games.lives[0]
        step = games.step(np.array(actions[-1:]))
        score += float(step.reward[0])
        length += not fires
        life_lost = games.lives[0] < lives
        if settings.life_loss_terminates and (life_lost or fires):
            h, c = empty, empty
        fires = life_lost and settings.rom == "breakout"
        frames, ended = step.observation, step.ended[0]
    games.close()
    return actions, Episode(score, length)


@pytest.mark.parametrize(
    "settings",
    [PONG, BREAKOUT, replace(BREAKOUT, life_loss_terminates=True)],
    ids=["Pong", "Breakout", "Breakout by lives"],
)
def test_a_policy_acts_like_a_plain_loop_over_its_history(settings):
    policy, screens = policy_for(settings), []
    episodes = play(policy, episodes=GAMES, seed=SEED, greedy=True, on_screen=screens.append)
    by_hand = [played_by_hand(settings, game) for game in range(GAMES)]
    assert episodes == [episode for _, episode in by_hand]
    actions, _ = by_hand[0]
    assert len(set(actions)) > 1
    shown = AtariGames(settings, 1, screen=True)
    expected = [shown.reset([SEED])[0, 0]] + [
        shown.step(np.array([action])).observation[0, 0] for action in actions
    ]
    shown.close()
    assert len(screens) == len(expected) == len(actions) + 1
    for screen, other in zip(screens, expected, strict=True):
        np.testing.assert_array_equal(screen, other)


def test_the_recurrent_state_is_emptied_after_a_lost_life_only_where_that_ends_an_episode():
    """Shows that the comparison with a plain loop can distinguish the two cases."""
    carried, _ = played_by_hand(BREAKOUT, 0)
    emptied, _ = played_by_hand(replace(BREAKOUT, life_loss_terminates=True), 0)
    assert carried != emptied and carried[:20] == emptied[:20]


class DigestPolicy:
    """Stands in for a policy. Its state is a digest of all frames of the episode, and decides the action."""

    def __init__(self, settings: AtariSettings):
        self.settings = settings

    def seed(self, seed: int) -> None:
        pass

    def initial_state(self, games: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(games, dtype=torch.int64), torch.zeros(games, dtype=torch.int64)

    def act(self, frames, state, *, start, greedy):
        digest, count = (torch.where(torch.from_numpy(start), 0, part) for part in state)
        digest = (31 * digest + torch.from_numpy(frames).sum(dim=(1, 2, 3)) + count) % 10_007
        return (digest % action_count(self.settings.rom)).numpy(), (digest, count + 1)


@pytest.mark.parametrize("life_loss_terminates", [False, True], ids=["games", "lives"])
def test_a_game_that_has_ended_is_not_stepped_again_and_the_others_continue_as_if_alone(
    life_loss_terminates, monkeypatch
):
    policy = DigestPolicy(replace(BREAKOUT, life_loss_terminates=life_loss_terminates))
    step, given, ended, progress = AtariGames.step, {}, set(), []

    def watched(games, actions):
        assert games not in ended
        given.setdefault(games, []).extend(actions.tolist())
        answer = step(games, actions)
        if answer.ended[0]:
            ended.add(games)
        return answer

    monkeypatch.setattr(AtariGames, "step", watched)
    play(policy, episodes=GAMES, seed=SEED, on_progress=lambda *counts: progress.append(counts))
    monkeypatch.undo()
    lengths = [len(actions) for actions in given.values()]
    assert len(set(lengths)) > 1
    assert progress == [
        (sum(length <= taken for length in lengths), taken) for taken in range(1, max(lengths) + 1)
    ]
    for number, actions in enumerate(given.values()):
        games = AtariGames(policy.settings, 1)
        frames, digest, count = games.reset([SEED], first=number), 0, 0
        for action in actions:
            digest, count = (31 * digest + int(frames.sum()) + count) % 10_007, count + 1
            assert action == digest % 4
            answer = games.step(np.array([action]))
            frames = answer.observation
            if life_loss_terminates and answer.start[0]:
                digest = count = 0
        assert answer.ended[0]
        games.close()


def test_the_state_before_a_game_is_two_tensors_of_zeros_that_share_nothing():
    h, c = policy_for(PONG).initial_state(2)
    h += 1
    assert h.shape == c.shape == (2, 512) and (c == 0).all()


def test_the_same_seed_plays_the_same_games_and_another_seed_others():
    policy, seen = policy_for(PONG), []
    for seed in (1, 1, 2):
        screens: list[np.ndarray] = []
        episodes = play(policy, episodes=2, seed=seed, on_screen=screens.append)
        seen.append((episodes, np.array(screens)))
    (episodes, screens), (again, screens_again), (_, other) = seen
    assert episodes == again and np.array_equal(screens, screens_again)
    assert not np.array_equal(screens, other)
