"""Names and settings of games, and the vector environment against one emulator stepped by hand."""

from collections import Counter
from dataclasses import dataclass, field, replace

import gymnasium
import numpy as np
import pytest
from ale_py import ALEInterface, roms

from envs.atari import AtariGames, AtariSettings, Episode, action_count, action_names, resolve
from tests.unit.envs.atari_by_hand import SETTLED, Answer, GameByHand, random_actions

# -- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env, rom",
    [
        ("Pong", "pong"),
        ("pong", "pong"),
        ("SEAQUEST", "seaquest"),
        ("MsPacman", "ms_pacman"),
        ("mspacman", "ms_pacman"),
        ("ms_pacman", "ms_pacman"),
        ("Ms_Pacman", "ms_pacman"),
        ("SpaceInvaders", "space_invaders"),
    ],
)
def test_a_bare_name_in_any_case_or_in_snake_case_is_the_game_without_sticky_actions(env, rom):
    assert resolve(env) == AtariSettings(rom=rom, sticky=0.0, frame_skip=4)


@pytest.mark.parametrize(
    "env, sticky",
    [
        ("ALE/Seaquest-v5", 0.25),
        ("SeaquestNoFrameskip-v4", 0.0),
        ("SeaquestNoFrameskip-v0", 0.25),
    ],
)
def test_a_gymnasium_id_has_the_sticky_actions_of_its_registration(env, sticky):
    assert resolve(env) == AtariSettings(rom="seaquest", sticky=sticky, frame_skip=4)
    assert gymnasium.spec(env).kwargs["repeat_action_probability"] == sticky


@pytest.mark.parametrize("env", ["Seaquest-v4", "Seaquest-v0"])
def test_an_id_with_random_frame_skip_is_refused_in_one_line_that_names_the_alternatives(env):
    with pytest.raises(ValueError) as refusal:
        resolve(env)
    line = str(refusal.value)
    assert repr(env) in line and "ALE/<Game>-v5" in line and "<Game>NoFrameskip-v4" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "env, near",
    [
        ("Seaqest", "Seaquest"),
        ("seaqest", "Seaquest"),
        ("ALE/Brekout-v5", "Breakout"),
        ("Pongg", "Pong"),
        ("CartPole-v1", "full id like ALE/Pong-v5"),
        ("", "full id like ALE/Pong-v5"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line_with_near_names(env, near):
    with pytest.raises(ValueError) as refusal:
        resolve(env)
    line = str(refusal.value)
    assert repr(env) in line and near in line and "\n" not in line


def test_every_game_of_ale_py_resolves_from_its_bare_name_to_a_rom_that_ale_py_has():
    names = [env.removeprefix("ALE/").removesuffix("-v5") for env in gymnasium.registry if "ALE/" in env]
    assert len(names) > 100
    for name in names:
        settings = resolve(name)
        assert settings.rom == gymnasium.spec(f"ALE/{name}-v5").kwargs["game"]
        assert ALEInterface.isSupportedROM(roms.get_rom_path(settings.rom)) == settings.rom


@pytest.mark.parametrize(
    "rom, actions",
    [("freeway", 3), ("breakout", 4), ("pong", 6), ("ms_pacman", 9), ("qbert", 6), ("seaquest", 18)],
)
def test_action_count_is_the_published_size_of_the_minimal_action_set(rom, actions):
    assert action_count(rom) == actions


def test_action_names_are_in_the_order_of_the_minimal_action_set():
    assert action_names("breakout") == ("NOOP", "FIRE", "RIGHT", "LEFT")


# -- one emulator by hand -----------------------------------------------------------------------------------


@dataclass
class Seen:
    """Events of a comparison, by which a test knows that it compared something."""

    counts: Counter[str] = field(default_factory=Counter)
    episodes: list[Episode] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


def compare_with_games_by_hand(settings, steps, *, seed=0) -> Seen:
    """Steps two games both ways with the same random actions. Everything must be equal at every step."""
    actions, seen = random_actions(settings, steps, 2, seed), Seen()
    games = AtariGames(settings, 2)
    by_hand = [GameByHand(settings) for _ in range(2)]
    first = games.reset([1, 2])
    assert first.shape == (2, 1, 80, 80) and first.dtype == np.uint8
    for i, game in enumerate(by_hand):
        np.testing.assert_array_equal(first[i, 0], game.reset())
    for t in range(steps):
        lives = [game.lives for game in by_hand]
        step = games.step(actions[t])
        answers = [game.step(int(action)) for game, action in zip(by_hand, actions[t], strict=True)]
        for name in Answer._fields:
            expected = [getattr(answer, name) for answer in answers]
            if name == "observation":
                np.testing.assert_array_equal(step.observation[:, 0], expected, err_msg=f"step {t}")
            elif name == "episodes":
                assert step.episodes == [*expected[0], *expected[1]], f"step {t}"
            else:
                assert getattr(step, name).tolist() == expected, f"step {t}, {name}"
                seen.counts[name] += np.count_nonzero(expected)
        assert games.lives.tolist() == [game.lives for game in by_hand], f"step {t}"
        assert games.score.tolist() == [game.score for game in by_hand], f"step {t}"
        assert games.length.tolist() == [game.length for game in by_hand], f"step {t}"
        seen.rewards += [answer.reward for answer in answers]
        seen.episodes += step.episodes
        seen.counts["lives lost"] += sum(
            not answer.reset and game.lives < before
            for answer, game, before in zip(answers, by_hand, lives, strict=True)
        )
        seen.counts["ended with a life"] += sum(
            answer.ended and game.lives < before
            for answer, game, before in zip(answers, by_hand, lives, strict=True)
        )
    games.close()
    return seen


LIVES = pytest.mark.parametrize("life_loss_terminates", [False, True], ids=["games", "lives"])


@LIVES
@pytest.mark.parametrize(
    "env, steps", [("Breakout", 440), ("Seaquest", 410), ("Berzerk", 190), ("MsPacman", 515)]
)
def test_games_that_end_in_game_over_equal_an_emulator_stepped_by_hand(env, steps, life_loss_terminates):
    settings = replace(resolve(env), life_loss_terminates=life_loss_terminates, **SETTLED)
    seen = compare_with_games_by_hand(settings, steps)
    counts = seen.counts
    assert counts["truncated"] == 0
    assert counts["ended"] == counts["reset"] == len(seen.episodes) >= 2
    assert counts["lives lost"] > 2 * counts["ended"]
    assert counts["terminated"] == counts["lives lost" if life_loss_terminates else "ended"]
    # After every life but the last one, in games that have FIRE.
    fires = 0 if env == "MsPacman" else counts["lives lost"] - counts["ended with a life"]
    assert counts["fired"] == fires
    # The score continues over lives.
    assert any(episode.score > max(seen.rewards) for episode in seen.episodes)


@LIVES
def test_without_fire_after_a_lost_life_every_action_is_taken(life_loss_terminates):
    settings = replace(
        resolve("Seaquest"),
        fire_after_life_loss=False,
        life_loss_terminates=life_loss_terminates,
        **SETTLED,
    )
    seen = compare_with_games_by_hand(settings, 410)
    assert seen.counts["fired"] == 0 and seen.counts["lives lost"] > 2
    assert seen.counts["valid"] == 2 * 410 - seen.counts["reset"]


def test_fire_is_pressed_after_a_lost_life_also_where_it_is_not_after_a_reset():
    seen = compare_with_games_by_hand(replace(resolve("Berzerk"), fire_reset=False, **SETTLED), 200)
    assert seen.counts["fired"] > 2


@pytest.mark.parametrize("max_frames", range(96, 105, 2))
def test_games_cut_in_before_and_after_a_fire_step_equal_an_emulator_stepped_by_hand(max_frames):
    settings = replace(resolve("Breakout"), max_frames=max_frames, life_loss_terminates=True, **SETTLED)
    seen = compare_with_games_by_hand(settings, 27)
    assert seen.counts["lives lost"] == seen.counts["ended"] == 2
    # Both games lose their first ball in step 24, before the action of which 92 frames have passed.
    assert seen.counts["fired"] == (0 if max_frames <= 96 else 2)
    assert seen.counts["truncated"] == seen.counts["fired"]


@pytest.mark.parametrize(
    "max_frames, fire_reset, length", [(80, True, 20), (42, False, 11)], ids=["after a step", "inside a step"]
)
def test_games_cut_by_the_frame_cap_equal_an_emulator_stepped_by_hand(max_frames, fire_reset, length):
    settings = replace(resolve("Pong"), max_frames=max_frames, fire_reset=fire_reset, **SETTLED)
    seen = compare_with_games_by_hand(settings, 2 * length + 5)
    assert seen.counts["terminated"] == 0
    assert seen.counts["truncated"] == seen.counts["ended"] == seen.counts["reset"] == 2 * 2
    assert [episode.length for episode in seen.episodes] == [length] * 4


def test_rewards_and_scores_are_those_of_the_game_not_clipped():
    settings = replace(resolve("MsPacman"), max_frames=4 * 150, **SETTLED)
    seen = compare_with_games_by_hand(settings, 150)
    assert max(seen.rewards) >= 10 and seen.counts["ended"] == 2
    assert sum(episode.score for episode in seen.episodes) == sum(seen.rewards) > 100


# -- seeds --------------------------------------------------------------------------------------------------


def play(games, seed, steps=40):
    """Returns the first observations and those after random actions, equal in all calls: (steps + 1, N, 1, 80, 80)."""
    observations = [games.reset(seed)]
    actions = np.random.default_rng(0).integers(0, 18, (steps, games.count))
    observations += [games.step(action).observation for action in actions]
    return np.stack(observations)


def test_a_seed_gives_the_same_games_again_and_another_seed_gives_others():
    settings = resolve("ALE/Seaquest-v5")
    games, others = AtariGames(settings, 2), AtariGames(settings, 2)
    played = play(games, [1, 0, 0])
    for seed in ([2, 0, 0], [1, 1, 0], [1, 0, 5000]):
        assert (played != play(games, seed)).any(axis=(0, 2, 3, 4)).all()
    np.testing.assert_array_equal(played, play(games, [1, 0, 0]))
    np.testing.assert_array_equal(played, play(others, [1, 0, 0]))
    games.close()
    others.close()


def test_an_observation_of_more_frames_ends_with_the_newest_and_is_black_before_a_game():
    settings = replace(resolve("Seaquest"), max_frames=60, noop_max=0)
    single, stacked = AtariGames(settings, 2), AtariGames(replace(settings, stack=3), 2)
    alone, together = play(single, [1]), play(stacked, [1])  # (41, 2, 1, 80, 80) and (41, 2, 3, 80, 80)
    starts, black = 0, np.zeros((2, 80, 80), dtype=np.uint8)
    for game in range(2):
        history: list[np.ndarray] = []
        for t in range(41):
            if t % 16 == 0:  # a game has 15 steps and the step that resets it
                history, starts = [*black], starts + 1
            history.append(alone[t, game, 0])
            np.testing.assert_array_equal(together[t, game], np.stack(history[-3:]))
    assert starts == 6
    single.close()
    stacked.close()


def test_games_are_the_same_however_many_threads_step_them():
    settings = resolve("Breakout")
    games, others = AtariGames(settings, 5), AtariGames(settings, 5, threads=3)
    assert np.array_equal(games.reset([7]), others.reset([7]))
    random = np.random.default_rng(0)
    for _ in range(100):
        actions = random.integers(4, size=5)
        for ours, theirs in zip(games.step(actions)[:-1], others.step(actions)[:-1], strict=True):
            assert np.array_equal(ours, theirs)


def test_the_games_of_one_seed_differ_by_their_no_ops():
    games = AtariGames(resolve("Seaquest"), 3)
    played = [games.reset([1])]
    played += [games.step(np.zeros(3, dtype=np.int64)).observation for _ in range(20)]
    games.close()
    first, second, third = np.stack(played, axis=1)
    assert (first != second).any() and (second != third).any() and (first != third).any()


def test_a_game_is_the_same_alone_as_among_those_of_its_seed():
    settings = resolve("ALE/Breakout-v5")
    together, number = AtariGames(settings, 4), 2
    alone = AtariGames(settings, 1)
    observations = together.reset([3, 1])
    np.testing.assert_array_equal(alone.reset([3, 1], first=number)[0], observations[number])
    for action in random_actions(settings, 60, 4):
        theirs, ours = together.step(action), alone.step(action[number : number + 1])
        for part, whole in zip(ours[:-1], theirs[:-1], strict=True):
            np.testing.assert_array_equal(part[0], whole[number])
    assert (theirs.observation != ours.observation).any(axis=(1, 2, 3)).sum() == 3
    together.close()
    alone.close()


def test_the_screen_is_coloured_and_shows_the_same_game():
    settings = replace(resolve("Breakout"), **SETTLED)
    games, screens = AtariGames(settings, 1), AtariGames(settings, 1, screen=True)
    by_hand = GameByHand(settings)
    by_hand.reset()
    games.reset([1])
    assert screens.reset([1]).shape == (1, 1, 210, 160, 3)
    for action in random_actions(settings, 30, 1):
        small, step = games.step(action), screens.step(action)
        by_hand.step(int(action[0]))
        assert step.reward == small.reward
    games.close()
    screens.close()
    # The screen shows the maximum of this frame and the one before.
    last = by_hand.emulator.getScreenRGB()
    assert (step.observation[0, 0] >= last).all()
    assert (step.observation[0, 0] == last).mean() > 0.95
