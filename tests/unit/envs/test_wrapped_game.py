"""Games of `gymnasium.make` that `wrap_game` has wrapped, against the games of `make_game`."""

from collections import Counter
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing, MaxAndSkipObservation, RecordEpisodeStatistics

from envs import make_game, wrap_game
from envs.atari import resolve
from tests.unit.envs.atari_by_hand import SETTLED, random_actions

BREAKOUT = resolve("Breakout")
LIVES = pytest.mark.parametrize("life_loss_terminates", [False, True], ids=["games", "lives"])


@LIVES
@pytest.mark.parametrize(
    "env, steps, cap",
    [
        ("Breakout", 400, {}),
        ("Breakout", 300, {"max_frames": 530}),
        ("Seaquest", 450, {}),
        ("MsPacman", 550, {"stack": 3}),
    ],
)
def test_a_wrapped_game_equals_the_game_of_that_name(env, steps, cap, life_loss_terminates):
    settings = replace(resolve(env), life_loss_terminates=life_loss_terminates, **cap, **SETTLED)
    wrapped = wrap_game(gymnasium.make(f"ALE/{env}-v5", repeat_action_probability=0.0), settings)
    game, ends = make_game(settings), Counter()
    observation, info = game.reset()
    theirs, their_info = wrapped.reset()
    np.testing.assert_array_equal(theirs, observation)
    assert their_info == info
    for action in random_actions(settings, steps, 1)[:, 0]:
        observation, *answers, info = game.step(int(action))
        theirs, *their_answers, their_info = wrapped.step(int(action))
        assert their_answers == answers
        for name in ("score", "length", "lives"):
            assert their_info[name] == info[name]
        if ended := "episode" in info:
            assert [their_info["episode"][name] for name in "rl"] == [info["episode"][name] for name in "rl"]
        # ale-py's vector environment does not look at the frame with which a game ends.
        if not ended:
            np.testing.assert_array_equal(theirs, observation)
        if answers[1] or answers[2]:
            ends["games" if ended else "lives"] += 1
            (observation, info), (theirs, their_info) = game.reset(), wrapped.reset()
            np.testing.assert_array_equal(theirs, observation)
            assert their_info == info
    assert ends["games"] > 0 and (ends["lives"] > 0) == life_loss_terminates
    game.close(), wrapped.close()


def test_a_wrapped_game_begins_with_no_ops_drawn_from_its_seed():
    settings = replace(resolve("MsPacman"), noop_max=30)
    wrapped = wrap_game(gymnasium.make("ALE/MsPacman-v5", repeat_action_probability=0.0), settings)
    numbers = set()
    for seed in range(12):
        wrapped.reset(seed=seed)
        frames = wrapped.games._emulators.env.unwrapped.ale.getEpisodeFrameNumber()
        wrapped.reset(seed=seed)
        assert wrapped.games._emulators.env.unwrapped.ale.getEpisodeFrameNumber() == frames
        numbers.add(frames)
    assert len(numbers) > 5 and max(numbers) - min(numbers) < 30
    wrapped.close()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: gymnasium.make("ALE/Pong-v5"), ["pong", "breakout"]),
        (
            lambda: gymnasium.make("ALE/Breakout-v5", full_action_space=True),
            ["Discrete(18)", "breakout has 4"],
        ),
        (lambda: gymnasium.make("ALE/Breakout-v5", continuous=True), ["Box", "breakout has 4", "continuous"]),
        (lambda: gymnasium.make("CartPole-v1"), ["CartPole", "not an Atari game", "ALE/<Game>-v5"]),
        (
            lambda: RecordEpisodeStatistics(AtariPreprocessing(gymnasium.make("BreakoutNoFrameskip-v4"))),
            ["skips frames by AtariPreprocessing", "leave that wrapper out"],
        ),
        (
            lambda: MaxAndSkipObservation(gymnasium.make("ALE/Breakout-v5")),
            ["skips frames by MaxAndSkipObservation"],
        ),
    ],
    ids=[
        "another game",
        "all actions",
        "continuous",
        "no Atari game",
        "preprocessed frames",
        "skipped frames",
    ],
)
def test_what_cannot_be_played_like_the_game_is_refused_in_one_line(make, words):
    with pytest.raises(ValueError) as refusal:
        wrap_game(make(), BREAKOUT)
    line = str(refusal.value)
    assert "\n" not in line and all(word in line for word in words), line
