"""Names and settings of games, and the vector environment against one emulator stepped by hand."""

from dataclasses import dataclass, field, replace

import cv2
import gymnasium
import numpy as np
import pytest
from ale_py import Action, ALEInterface, roms

from envs.atari import AtariGames, AtariSettings, Episode, action_count, resolve

# -- names ------------------------------------------------------------------------------------------------------------


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


# -- one emulator by hand ---------------------------------------------------------------------------------------------


@dataclass
class GameByHand:
    """What one game of AtariGames should answer, frame by frame; without sticky actions and no-ops it is all settled."""

    settings: AtariSettings
    life_loss_terminates: bool
    emulator: ALEInterface = field(default_factory=ALEInterface)

    def __post_init__(self):
        self.emulator.setFloat("repeat_action_probability", 0.0)
        self.emulator.loadROM(roms.get_rom_path(self.settings.rom))
        self.actions = self.emulator.getMinimalActionSet()

    def screen(self) -> np.ndarray:
        return self.emulator.getScreenGrayscale()

    def reset(self) -> np.ndarray:
        self.emulator.reset_game()
        if self.settings.fire_reset and Action.FIRE in self.actions:
            self.emulator.act(Action.FIRE)
        self.frames = self.length = 0
        self.score = 0.0
        self.over = False
        self.last_two = [np.zeros((210, 160), np.uint8), self.screen()]
        return self.observation()

    def observation(self) -> np.ndarray:
        pooled = np.maximum(*self.last_two)
        return cv2.resize(pooled, (80, 80), interpolation=cv2.INTER_AREA)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, bool, list[Episode]]:
        """Observation, reward, terminated, truncated, reset, finished games."""
        if self.over:
            finished = [Episode(self.score, self.length)]
            return self.reset(), 0.0, False, False, True, finished
        lives, reward, pooled = self.emulator.lives(), 0.0, np.maximum(*self.last_two)
        for frame in range(4):
            reward += self.emulator.act(self.actions[action])
            self.frames += 1
            self.over = self.emulator.game_over() or self.frames == self.settings.max_frames
            if self.over:
                # ale-py does not look at the frame with which a game ends: the last observation shows what came before.
                self.last_two = [pooled, self.last_two[1]]
                break
            if frame == 2:
                self.last_two = [pooled, self.screen()]
            if frame == 3:
                self.last_two = [self.screen(), self.last_two[1]]
        self.score += reward
        self.length += 1
        life_lost = self.emulator.lives() < lives
        terminated = self.emulator.game_over() or (self.life_loss_terminates and life_lost)
        return self.observation(), reward, terminated, self.over and not terminated, False, []


def random_actions(settings, steps, games, seed=0):
    return np.random.default_rng(seed).integers(0, action_count(settings.rom), (steps, games))


@dataclass
class Seen:
    """What happened in a comparison, so that a test can say that it compared something."""

    terminated: int = 0
    truncated: int = 0
    resets: int = 0
    episodes: list[Episode] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    lives_lost: int = 0


def compare_with_games_by_hand(settings, steps, *, life_loss_terminates=False, seed=0) -> Seen:
    """Steps two games both ways with the same random actions; everything must be equal at every step."""
    actions, seen = random_actions(settings, steps, 2, seed), Seen()
    games = AtariGames(settings, 2, life_loss_terminates=life_loss_terminates)
    by_hand = [GameByHand(settings, life_loss_terminates) for _ in range(2)]
    first = games.reset([1, 2])
    assert first.shape == (2, 1, 80, 80) and first.dtype == np.uint8
    for i, game in enumerate(by_hand):
        np.testing.assert_array_equal(first[i, 0], game.reset())
    ended = np.zeros(2, dtype=bool)
    for t in range(steps):
        step, finished = games.step(actions[t]), []
        for i, game in enumerate(by_hand):
            lives = game.emulator.lives()
            observation, reward, terminated, truncated, reset, episodes = game.step(int(actions[t, i]))
            np.testing.assert_array_equal(step.observation[i, 0], observation, err_msg=f"step {t}, game {i}")
            assert (step.reward[i], step.terminated[i], step.truncated[i], step.reset[i]) == (
                reward,
                terminated,
                truncated,
                reset,
            ), f"step {t}, game {i}"
            finished += episodes
            assert step.reset[i] == ended[i]  # one row a game's end, the one after it
            ended[i] = game.over
            seen.rewards.append(reward)
            seen.lives_lost += not reset and game.emulator.lives() < lives
        assert step.episodes == finished
        np.testing.assert_array_equal(step.start, step.terminated | step.reset)
        seen.terminated += step.terminated.sum()
        seen.truncated += step.truncated.sum()
        seen.resets += step.reset.sum()
        seen.episodes += finished
    games.close()
    return seen


SETTLED = {"noop_max": 0, "sticky": 0.0}


def test_games_that_end_in_game_over_equal_an_emulator_stepped_by_hand():
    seen = compare_with_games_by_hand(replace(resolve("Berzerk"), **SETTLED), 190)
    assert seen.truncated == 0
    assert seen.terminated == len(seen.episodes) == seen.resets > 0
    assert seen.lives_lost > seen.resets  # which is no end


def test_a_lost_life_terminates_without_reset_and_the_score_goes_on():
    settings = replace(resolve("Berzerk"), **SETTLED)
    seen = compare_with_games_by_hand(settings, 190, life_loss_terminates=True)
    assert seen.terminated == seen.lives_lost > seen.resets > 0
    assert any(episode.score > max(seen.rewards) for episode in seen.episodes)


@pytest.mark.parametrize(
    "max_frames, fire_reset, length", [(80, True, 20), (42, False, 11)], ids=["after a step", "inside a step"]
)
def test_games_cut_by_the_frame_cap_equal_an_emulator_stepped_by_hand(max_frames, fire_reset, length):
    settings = replace(resolve("Pong"), max_frames=max_frames, fire_reset=fire_reset, **SETTLED)
    seen = compare_with_games_by_hand(settings, 2 * length + 5)
    assert seen.terminated == 0 and seen.truncated == seen.resets == 2 * 2
    assert [episode.length for episode in seen.episodes] == [length] * 4


def test_rewards_and_scores_are_those_of_the_game_not_clipped():
    settings = replace(resolve("MsPacman"), max_frames=4 * 149, **SETTLED)
    seen = compare_with_games_by_hand(settings, 150)
    assert max(seen.rewards) >= 10 and seen.resets == 2
    assert sum(episode.score for episode in seen.episodes) == sum(seen.rewards) > 100


# -- seeds ------------------------------------------------------------------------------------------------------------


def play(games, seed, steps=40):
    """First observations and those after `steps` random actions, the same in every call: (steps + 1, N, 1, 80, 80)."""
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


def test_games_are_the_same_however_many_threads_step_them():
    settings = resolve("Breakout")
    games, others = AtariGames(settings, 5), AtariGames(settings, 5, threads=3)
    assert np.array_equal(games.reset([7]), others.reset([7]))
    random = np.random.default_rng(0)
    for _ in range(100):
        actions = random.integers(4, size=5)
        for ours, theirs in zip(games.step(actions)[:5], others.step(actions)[:5], strict=True):
            assert np.array_equal(ours, theirs)


def test_the_games_of_one_seed_differ_by_their_no_ops():
    games = AtariGames(resolve("Seaquest"), 3)
    played = [games.reset([1])]
    played += [games.step(np.zeros(3, dtype=np.int64)).observation for _ in range(20)]
    games.close()
    first, second, third = np.stack(played, axis=1)
    assert (first != second).any() and (second != third).any() and (first != third).any()


def test_the_screen_is_coloured_and_shows_the_same_game():
    settings = replace(resolve("Breakout"), **SETTLED)
    games, screens = AtariGames(settings, 1), AtariGames(settings, 1, screen=True)
    by_hand = GameByHand(settings, life_loss_terminates=False)
    by_hand.reset()
    games.reset([1])
    assert screens.reset([1]).shape == (1, 1, 210, 160, 3)
    for action in random_actions(settings, 30, 1):
        small, step = games.step(action), screens.step(action)
        by_hand.step(int(action[0]))
        assert step.reward == small.reward
    games.close()
    screens.close()
    last = by_hand.emulator.getScreenRGB()  # what is shown is the maximum of this frame and the one before
    assert (step.observation[0, 0] >= last).all()
    assert (step.observation[0, 0] == last).mean() > 0.95
