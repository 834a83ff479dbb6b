"""Games as Gymnasium environments against emulators by hand, the games of training and Gymnasium's own wrappers."""

import warnings
from collections import Counter
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.seeding import np_random
from gymnasium.wrappers import RecordEpisodeStatistics
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordEpisodeStatisticsOfMany

from envs import make_game, make_games
from envs.atari import AtariGames, resolve
from tests.unit.envs.atari_by_hand import SETTLED, GameByHand, random_actions

BREAKOUT = resolve("Breakout")
LIVES = pytest.mark.parametrize("life_loss_terminates", [False, True], ids=["games", "lives"])


def games_of_seed(settings, count: int, seed: int) -> tuple[AtariGames, np.ndarray]:
    """Returns the games that environments with this seed play first, and their first frames."""
    games = AtariGames(settings, count)
    return games, games.reset([int(np_random(seed)[0].integers(2**31))])


# -- one game -----------------------------------------------------------------------------------------------


@LIVES
@pytest.mark.parametrize("env, render_mode", [("Breakout", "rgb_array"), ("MsPacman", None)])
def test_one_game_passes_gymnasiums_own_check(env, render_mode, life_loss_terminates):
    settings = replace(resolve(env), life_loss_terminates=life_loss_terminates)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # It has no registration.
        warnings.filterwarnings("ignore", ".*not having a spec.*")
        check_env(make_game(settings, render_mode=render_mode))


@pytest.mark.parametrize("render_mode", ["human", "ansi", ""])
def test_another_render_mode_is_refused_in_one_line(render_mode):
    with pytest.raises(ValueError) as refusal:
        make_game("Pong", render_mode=render_mode)
    line = str(refusal.value)
    assert repr(render_mode) in line and "None or 'rgb_array'" in line and "\n" not in line


@pytest.mark.parametrize("env", ["Pong", "ALE/Pong-v5"])
def test_a_game_can_be_made_by_its_name_alone(env):
    game, games = make_game(env), make_games(env, 3)
    assert game.games.settings == games.games.settings == resolve(env)
    assert game.action_space == gymnasium.spaces.Discrete(6)
    assert game.reset(seed=1)[0].shape == (1, 80, 80)
    assert games.reset(seed=1)[0].shape == (3, 1, 80, 80)
    game.close()
    games.close()


def test_one_game_and_many_and_those_of_training_agree_step_by_step():
    """The single game equals the first of many until its end. Its steps that lose a life also press FIRE."""
    game, many = make_game(BREAKOUT), make_games(BREAKOUT, 3, threads=2)
    games, first = games_of_seed(BREAKOUT, 3, seed=5)
    single, info = game.reset(seed=5)
    of_many, infos = many.reset(seed=5)
    np.testing.assert_array_equal(of_many, first)
    np.testing.assert_array_equal(single, first[0])
    assert info == {"score": 0.0, "length": 0, "lives": 5}
    assert infos["start"].all() and infos["valid"].all() and infos["lives"].tolist() == [5] * 3
    fires, over = 0, False
    for action in random_actions(BREAKOUT, 250, 3):
        step = games.step(action)
        observation, *answers, infos = many.step(action)
        np.testing.assert_array_equal(observation, step.observation)
        for answer, expected in zip(answers, (step.reward, step.terminated, step.truncated), strict=True):
            np.testing.assert_array_equal(answer, expected)
        for name, expected in {
            "score": games.score,
            "length": games.length,
            "lives": games.lives,
            "start": step.start,
            "valid": step.valid,
        }.items():
            np.testing.assert_array_equal(infos[name], expected)
        assert many.observation_space.contains(observation)
        if over:
            continue
        if not step.fired[0]:
            single, reward, terminated, truncated, info = game.step(int(action[0]))
            expected_reward = 0.0
        expected_reward += step.reward[0]
        if games.fires_next[0]:
            continue
        np.testing.assert_array_equal(single, step.observation[0])
        assert (reward, terminated, truncated) == (expected_reward, step.terminated[0], step.truncated[0])
        assert [info[name] for name in ("score", "length", "lives")] == [
            values[0] for values in (games.score, games.length, games.lives)
        ]
        assert not terminated or info["episode"]["r"] == step.episodes[0].score
        fires += step.fired[0]
        over = terminated
    assert over and fires == 4
    game.close(), many.close(), games.close()


@pytest.mark.parametrize("env, lives", [("Breakout", 5), ("MsPacman", 3)])
def test_an_episode_may_be_a_life_and_a_reset_continues_the_same_game(env, lives):
    """The environment equals a game stepped by hand. There, the reset after a lost life is the step that presses FIRE."""
    settings = replace(resolve(env), life_loss_terminates=True, **SETTLED)
    game, by_hand = make_game(settings), GameByHand(settings)
    np.testing.assert_array_equal(game.reset()[0][0], by_hand.reset())
    seen = Counter()
    for action in random_actions(settings, 1_100, 1)[:, 0]:
        answer = by_hand.step(int(action))
        observation, reward, terminated, truncated, info = game.step(int(action))
        np.testing.assert_array_equal(observation[0], answer.observation)
        assert (reward, terminated, truncated) == (answer.reward, answer.terminated, answer.truncated)
        score, length = by_hand.score, by_hand.length
        assert (info["score"], info["length"], info["lives"]) == (score, length, by_hand.lives)
        assert ("episode" in info) == answer.ended
        seen["lives"] += terminated
        if answer.ended:
            assert (info["episode"]["r"], info["episode"]["l"]) == (score, length)
            assert info["episode"]["t"] > 0
            seen["games"] += 1
            seen["score"] += score
        if not terminated:
            continue
        observation, info = game.reset()
        if answer.ended:
            expected = by_hand.reset()
        elif by_hand.must_fire:
            expected = by_hand.step(0).observation
        else:
            expected = answer.observation
        np.testing.assert_array_equal(observation[0], expected)
        assert info == {"score": by_hand.score, "length": by_hand.length, "lives": by_hand.lives}
    game.close()
    assert seen["games"] >= 2 and seen["lives"] >= lives * seen["games"] and seen["score"] > 0


@pytest.mark.parametrize("max_frames", range(93, 106, 2))
def test_every_game_is_reported_once_also_one_that_ends_in_the_fire_step_of_a_reset(max_frames):
    """The cut comes before, in and after the step that presses FIRE after the first lost ball."""
    settings = replace(BREAKOUT, max_frames=max_frames, life_loss_terminates=True, **SETTLED)
    game, by_hand = make_game(settings), GameByHand(settings)
    ended_in_reset = []
    game.reset()
    for _ in range(3):
        first, ended, in_reset = by_hand.reset(), False, False
        while not ended:
            answer = by_hand.step(0)
            _, _, terminated, truncated, info = game.step(0)
            assert (terminated, truncated) == (answer.terminated, answer.truncated)
            if answer.terminated and not answer.ended:
                assert "episode" not in info
                answer = by_hand.step(0)
                observation, info = game.reset()
                np.testing.assert_array_equal(observation[0], first if answer.ended else answer.observation)
                # All entries but `episode` are those of the new game.
                assert info["length"] == (0 if answer.ended else by_hand.length)
                in_reset = answer.ended
            ended = answer.ended
            assert ("episode" in info) == ended
        assert (info["episode"]["r"], info["episode"]["l"]) == (by_hand.score, by_hand.length)
        ended_in_reset.append(in_reset)
        if not in_reset:
            game.reset()
    game.close()
    # The first ball is lost in step 24, so frames 97 to 100 are of the FIRE step.
    assert ended_in_reset == [97 <= max_frames <= 100] * 3


def test_a_reset_within_an_episode_starts_another_game_and_a_seed_the_same_one_again():
    game = make_game("MsPacman")
    first, _ = game.reset(seed=7)
    infos = [game.step(2)[-1] for _ in range(120)]
    game.reset()
    other = [game.step(2)[0] for _ in range(60)]
    assert infos[-1]["length"] == 120 and game.reset()[1] == {"score": 0.0, "length": 0, "lives": 3}
    again, _ = game.reset(seed=7)
    np.testing.assert_array_equal(first, again)
    assert (np.stack(other) != np.stack([game.step(2)[0] for _ in range(60)])).any()
    game.close()


def test_a_seed_starts_a_new_game_also_after_a_lost_life():
    game = make_game(replace(BREAKOUT, life_loss_terminates=True))
    first, _ = game.reset(seed=7)
    while not game.step(0)[2]:
        pass
    observation, info = game.reset(seed=7)
    np.testing.assert_array_equal(observation, first)
    assert info == {"score": 0.0, "length": 0, "lives": 5}
    # The lost life is forgotten.
    game.step(0)
    assert game.reset()[1]["lives"] == 5
    game.close()


def test_only_the_first_reset_after_a_lost_life_continues_its_game():
    game = make_game(replace(BREAKOUT, life_loss_terminates=True))
    game.reset(seed=7)
    while not game.step(0)[2]:
        pass
    assert game.reset()[1]["lives"] == 4
    assert game.reset()[1] == {"score": 0.0, "length": 0, "lives": 5}
    game.close()


def test_rewards_are_clipped_and_scores_are_not():
    game, plain = make_game("MsPacman", reward_clip=3.0), make_game("MsPacman")
    game.reset(seed=1), plain.reset(seed=1)
    rewards = []
    for action in random_actions(resolve("MsPacman"), 100, 1)[:, 0]:
        (_, clipped, *_, info), (_, reward, *_) = game.step(int(action)), plain.step(int(action))
        assert clipped == min(reward, 3.0)
        rewards.append(reward)
    assert info["score"] == sum(rewards) > 30
    game.close(), plain.close()


@LIVES
def test_the_rendered_screen_is_the_coloured_one_of_the_same_game(life_loss_terminates):
    settings = replace(BREAKOUT, life_loss_terminates=life_loss_terminates, sticky=0.25)
    game, blind = make_game(settings, render_mode="rgb_array"), make_game(settings)
    game.reset(seed=3)
    assert blind.reset(seed=3) and blind.render() is None
    screens = AtariGames(settings, 1, screen=True)
    shown = screens.reset([int(np_random(3)[0].integers(2**31))])[0, 0]
    assert shown.shape == (210, 160, 3) and np.array_equal(game.render(), shown)
    lost = 0
    for action in random_actions(settings, 100, 1):
        *_, terminated, _, _ = game.step(int(action[0]))
        shown = screens.step(action).observation[0, 0]
        if screens.fires_next[0]:
            lost += 1
            fired = screens.step(action).observation[0, 0]
            if terminated:
                np.testing.assert_array_equal(game.render(), shown)
                game.reset()
            shown = fired
        np.testing.assert_array_equal(game.render(), shown)
    assert lost > 0
    game.close(), blind.close(), screens.close()


# -- against a wrapper of Gymnasium's -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "env, fires", [("MsPacman", False), ("Breakout", False), ("Breakout", True)], ids=str
)
def test_a_games_score_and_length_are_those_that_gymnasium_counts(env, fires):
    settings = replace(resolve(env), fire_after_life_loss=fires, max_frames=2_400)
    game = RecordEpisodeStatistics(make_game(settings), stats_key="counted")
    games, score = 0, 0.0
    game.reset(seed=1)
    for action in random_actions(settings, 1_300, 1)[:, 0]:
        _, _, terminated, truncated, info = game.step(int(action))
        assert ("episode" in info) == ("counted" in info) == (terminated or truncated)
        if terminated or truncated:
            ours, theirs = info["episode"], info["counted"]
            assert (ours["r"], ours["l"]) == (theirs["r"], theirs["l"])
            assert ours["t"] == pytest.approx(theirs["t"], abs=0.1)
            games += 1
            score += ours["r"]
            game.reset()
    game.close()
    assert games >= 2 and score > 0


@pytest.mark.parametrize("env, fires", [("MsPacman", False), ("Breakout", True)], ids=str)
def test_scores_and_lengths_of_many_games_are_those_that_gymnasium_counts(env, fires):
    settings = replace(resolve(env), fire_after_life_loss=fires, max_frames=2_400)
    many = RecordEpisodeStatisticsOfMany(make_games(settings, 3), stats_key="counted")
    many.reset(seed=1)
    games, ignored = 0, np.zeros(3, dtype=int)
    for action in random_actions(settings, 1_300, 3):
        *_, terminated, truncated, info = many.step(action)
        ended = terminated | truncated
        starts = info["start"] & ~ended
        ignored = np.where(starts, 0, ignored + ~info["valid"])
        assert ("episode" in info) == ("counted" in info) == ended.any()
        if not ended.any():
            continue
        np.testing.assert_array_equal(info["_episode"], info["_counted"])
        np.testing.assert_array_equal(info["_episode"], ended)
        ours, theirs = info["episode"], info["counted"]
        np.testing.assert_array_equal(ours["r"], theirs["r"])
        np.testing.assert_array_equal(ours["l"], theirs["l"] - np.where(ended, ignored, 0))
        np.testing.assert_allclose(ours["t"], theirs["t"], atol=0.1)
        assert (ignored[ended] == 4 * fires).all()
        games += ended.sum()
    many.close()
    assert games >= 6


# -- FIRE after a lost life ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fires", [True, False])
def test_a_policy_that_never_fires_stands_still_after_a_lost_ball_unless_fire_is_pressed_for_it(fires):
    game = make_game(replace(BREAKOUT, fire_after_life_loss=fires, max_frames=2_000))
    game.reset(seed=1)
    frames, ended = [], False
    while not ended:
        observation, _, terminated, truncated, info = game.step(0)
        frames.append(observation)
        ended = terminated or truncated
    game.close()
    assert (terminated, info["lives"]) == ((True, 0) if fires else (False, 4))
    stands_still = (np.stack(frames[-300:-1]) == frames[-2]).all() if len(frames) > 300 else False
    assert stands_still == (not fires)


@LIVES
def test_the_frame_after_fire_begins_an_episode_where_a_lost_life_ends_one(life_loss_terminates):
    settings = replace(BREAKOUT, life_loss_terminates=life_loss_terminates)
    many = make_games(settings, 4)
    _, info = many.reset(seed=2)
    fires, must_fire, over = 0, np.zeros(4, dtype=bool), np.zeros(4, dtype=bool)
    for action in random_actions(settings, 300, 4):
        lives = info["lives"]
        *_, terminated, _, info = many.step(action)
        np.testing.assert_array_equal(info["valid"], ~(must_fire | over))
        lost = (info["lives"] < lives) & ~over
        expected = over | terminated
        if life_loss_terminates:
            np.testing.assert_array_equal(terminated, lost)
            expected |= must_fire
        np.testing.assert_array_equal(info["start"], expected)
        fires += must_fire.sum()
        must_fire, over = lost & (info["lives"] > 0), info.get("_episode", np.zeros(4, dtype=bool))
    many.close()
    assert fires > 10
