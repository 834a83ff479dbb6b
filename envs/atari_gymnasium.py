"""The games of `envs.atari` as Gymnasium environments: one, many, and Gymnasium's own games played the same way."""

import time
from collections.abc import Iterator
from typing import Any

import ale_py.env
import cv2
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import AtariPreprocessing, MaxAndSkipObservation

from envs.atari import FRAME, AtariGames, AtariSettings, Emulators, Step, action_count, action_names

NOOP = np.zeros(1, dtype=np.int64)
SKIPPING_WRAPPERS = (AtariPreprocessing, MaxAndSkipObservation)


def observation_space(settings: AtariSettings) -> gymnasium.spaces.Box:
    """(C, 80, 80) uint8."""
    return gymnasium.spaces.Box(0, 255, (settings.stack, FRAME, FRAME), np.uint8)


class AtariGame(gymnasium.Env[np.ndarray, int]):
    """One game. Observations are (C, 80, 80) uint8, with C frames; rewards are the game's own unless they are clipped.

    If `settings.life_loss_terminates` is true, an episode is one life. The `reset` after a lost life then
    continues the same game, as `EpisodicLifeEnv` of OpenAI baselines does. Any other `reset` starts a new
    game.

    Every `info` has `score` (not clipped), `length` (agent steps) and `lives` of the game so far. When the
    game ends, `info` also has `episode`, with `r` (score), `l` (length) and `t` (seconds). It comes in the
    step that ends the game, or in the `reset` after a lost life if the game ends there.
    `gymnasium.wrappers.RecordEpisodeStatistics` adds the same entry. That wrapper is not needed, and
    refuses an `info` that has an `episode` already.
    """

    def __init__(
        self,
        settings: AtariSettings,
        *,
        reward_clip: float = np.inf,
        render_mode: str | None = None,
        emulators: Emulators | None = None,
    ):
        """
        Args:
            reward_clip: rewards are clipped to this size, positive or negative.
            render_mode: None, or "rgb_array" for `render` to return the coloured screen, (210, 160, 3)
                uint8.
            emulators: as for `AtariGames`.

        Raises:
            ValueError: another render mode.
        """
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}; it must be None or 'rgb_array'")
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 60 // settings.frame_skip}
        self.render_mode, self.reward_clip = render_mode, reward_clip
        self.games = AtariGames(settings, 1, emulators=emulators)
        # A second emulator with the same seed and actions shows the game in colour and full size.
        self.screens = AtariGames(settings, 1, screen=True) if render_mode else None
        self.observation_space = observation_space(settings)
        self.action_space = gymnasium.spaces.Discrete(action_count(settings.rom))
        self.life_lost = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or not self.life_lost:
            return self._new_game()
        ended: dict[str, Any] = {}
        # The step that presses FIRE after a lost life may lose the next life, or end the game.
        while self.games.fires_next[0]:
            step = self._step(NOOP)
            if step.ended[0]:
                ended = {"episode": self._info(step)["episode"]}
                self._new_game()
        self.life_lost = False
        return self.observation, self._info() | ended

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        step = self._step(np.array([action]))
        reward = float(step.reward[0])
        # If a lost life ends no episode, no reset comes that presses FIRE.
        # This step presses FIRE instead, so that no action is ignored.
        while self.games.fires_next[0] and not step.terminated[0]:
            step = self._step(NOOP)
            reward += float(step.reward[0])
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        self.life_lost = terminated and not step.ended[0]
        reward = float(np.clip(reward, -self.reward_clip, self.reward_clip))
        return self.observation, reward, terminated, truncated, self._info(step)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        return self.screen if self.screens else None

    def close(self) -> None:
        self.games.close()
        if self.screens:
            self.screens.close()

    def _new_game(self) -> tuple[np.ndarray, dict[str, Any]]:
        seed = [int(self.np_random.integers(2**31))]
        self.observation, self.life_lost, self.began = self.games.reset(seed)[0], False, time.perf_counter()
        if self.screens:
            self.screen = self.screens.reset(seed)[0, 0]
        return self.observation, self._info()

    def _step(self, actions: np.ndarray) -> Step:
        step = self.games.step(actions)
        self.observation = step.observation[0]
        if self.screens:
            self.screen = self.screens.step(actions).observation[0, 0]
        return step

    def _info(self, step: Step | None = None) -> dict[str, Any]:
        games = self.games
        info = {
            "score": float(games.score[0]),
            "length": int(games.length[0]),
            "lives": int(games.lives[0]),
        }
        if step is None or not step.ended[0]:
            return info
        seconds = round(time.perf_counter() - self.began, 6)
        return info | {"episode": {"r": info["score"], "l": info["length"], "t": seconds}}


class AtariGameVector(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N games, stepped together.

    A game restarts in the step after its end, and ignores the action of that step.

    If `settings.life_loss_terminates` is true, a lost life terminates an episode, and the game continues.

    Every `info` has arrays (N,): `score` (not clipped), `length` (agent steps) and `lives` of the games so
    far. `start` is true where the observation is the first of an episode, which a recurrent policy has to
    know. `valid` is true where the action was taken. A step that ends games adds `episode` and `_episode`,
    as `gymnasium.wrappers.vector.RecordEpisodeStatistics` does.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, settings: AtariSettings, count: int, *, threads: int = 1):
        self.games, self.num_envs = AtariGames(settings, count, threads=threads), count
        self.single_observation_space = observation_space(settings)
        self.single_action_space = gymnasium.spaces.Discrete(action_count(settings.rom))
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts N new games, and returns their first observations."""
        super().reset(seed=seed)
        observation = self.games.reset([int(self.np_random.integers(2**31))])
        self.began = np.full(self.num_envs, time.perf_counter())
        everywhere = np.ones(self.num_envs, dtype=bool)
        return observation, self._info(start=everywhere, valid=everywhere)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        step, now = self.games.step(np.asarray(actions)), time.perf_counter()
        self.began[step.reset] = now
        info = self._info(start=step.start, valid=step.valid)
        if step.ended.any():
            ended = {"r": info["score"], "l": info["length"], "t": np.round(now - self.began, 6)}
            info["episode"] = {name: np.where(step.ended, value, 0) for name, value in ended.items()}
            info["_episode"] = step.ended
        return step.observation, step.reward, step.terminated, step.truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        self.games.close()

    def _info(self, **flags: np.ndarray) -> dict[str, Any]:
        games = self.games
        return {"score": games.score, "length": games.length, "lives": games.lives} | flags


def wrap_game(env: gymnasium.Env, settings: AtariSettings) -> AtariGame:
    """Wraps a game of `gymnasium.make("ALE/Pong-v5")`, to be played like those of `AtariGame`.

    The environment keeps its sticky actions, mode, difficulty and wrappers. The settings add the rest: the
    frame skip with the maximum over the last two frames, grey 80 x 80 frames, no-ops and FIRE at the start,
    the frame cap, and what a lost life means. The environment is stepped by single frames, whatever frame
    skip it was made with.

    Raises:
        ValueError: `env` is not a game of ale-py, is not the game of `settings`, has the full action set,
            or has a wrapper that skips frames.
    """
    game = env.unwrapped
    if not isinstance(game, ale_py.env.AtariEnv):
        raise ValueError(
            f"{env} is not an Atari game of ale-py; make it with gymnasium.make('ALE/<Game>-v5')"
        )
    if game._game != settings.rom:
        raise ValueError(f"the environment is {game._game}, but the settings are of {settings.rom}")
    if getattr(env.action_space, "n", None) != action_count(settings.rom):
        raise ValueError(
            f"the environment's actions are {env.action_space}, but the policy of {settings.rom} has "
            f"{action_count(settings.rom)}; make it without full_action_space and continuous"
        )
    for wrapper in _wrappers(env):
        if isinstance(wrapper, SKIPPING_WRAPPERS):
            name = type(wrapper).__name__
            raise ValueError(
                f"the environment skips frames by {name}; leave that wrapper out, the settings do its work"
            )
    game._frameskip = 1
    return AtariGame(settings, emulators=_SingleFrames(env, settings))


def _wrappers(env: gymnasium.Env) -> Iterator[gymnasium.Wrapper]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env


class _SingleFrames:
    """An environment that is stepped by single frames, in place of ale-py's vector environment with one game."""

    def __init__(self, env: gymnasium.Env, settings: AtariSettings):
        self.env, self.settings, self.ended = env, settings, False
        self.screens: list[np.ndarray] = []
        self.stack: list[np.ndarray] = []
        names = action_names(settings.rom)
        self.fire = names.index("FIRE") if settings.fire_reset and "FIRE" in names else None

    def reset(self, *, seed: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        return self._start(int(seed[0]))

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        total, over, cut = 0.0, False, False
        if self.ended:
            observation, info = self._start(None)
        else:
            for _ in range(self.settings.frame_skip):
                _, reward, over, cut, _ = self.env.step(int(actions[0]))
                total += float(reward)
                self.frames += 1
                self.screens = [*self.screens[-1:], self._screen()]
                cut = cut or self.frames >= self.settings.max_frames
                if over or cut:
                    break
            self.stack = [*self.stack[1:], self._frame()]
            observation, info = self._observation(), self._lives()
        self.ended = over or cut
        return observation, np.array([total]), np.array([over]), np.array([cut and not over]), info

    def close(self) -> None:
        self.env.close()

    def _start(self, seed: int | None) -> tuple[np.ndarray, dict[str, Any]]:
        self.env.reset(seed=seed)
        # ale-py's vector environment also takes fewer no-ops than noop_max.
        noops = int(self.env.unwrapped.np_random.integers(max(self.settings.noop_max, 1)))
        for action in [0] * noops + ([self.fire] if self.fire is not None else []):
            _, _, over, cut, _ = self.env.step(action)
            if over or cut:
                self.env.reset()
        self.frames, self.screens, self.ended = 0, [self._screen()], False
        newest = self._frame()
        self.stack = [np.zeros_like(newest)] * (self.settings.stack - 1) + [newest]
        return self._observation(), self._lives()

    def _screen(self) -> np.ndarray:
        return self.env.unwrapped.ale.getScreenGrayscale()  # type: ignore[attr-defined]

    def _frame(self) -> np.ndarray:
        """Returns the newest frame, (80, 80) uint8."""
        pooled = np.maximum.reduce(self.screens)
        return cv2.resize(pooled, (FRAME, FRAME), interpolation=cv2.INTER_AREA)

    def _observation(self) -> np.ndarray:
        """Returns the observation (1, C, 80, 80)."""
        return np.stack(self.stack)[None]

    def _lives(self) -> dict[str, Any]:
        return {"lives": np.array([self.env.unwrapped.ale.lives()])}  # type: ignore[attr-defined]
