"""One Atari game as a Gymnasium environment, for libraries that want one: the same games as `envs.atari.AtariGames`."""

from typing import Any

import gymnasium
import numpy as np

from envs.atari import FRAME, AtariGames, AtariSettings, action_count

NOOP = np.zeros(1, dtype=np.int64)


class AtariGame(gymnasium.Env[np.ndarray, int]):
    """Observations (1, 80, 80) uint8. Where `life_loss_terminates`, the episode after a lost life goes on in the same game.

    A `reset` that begins a new game tells of the last one: `info["score"]`, as the game counts, not clipped, and
    `info["length"]` in agent steps.
    """

    def __init__(
        self, settings: AtariSettings, *, life_loss_terminates: bool = True, reward_clip: float = np.inf
    ):
        self.games = AtariGames(settings, 1, life_loss_terminates=life_loss_terminates)
        self.reward_clip = reward_clip
        self.observation_space = gymnasium.spaces.Box(0, 255, (1, FRAME, FRAME), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(action_count(settings.rom))
        self.ended = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """After the end of an episode the game goes on, anew if it was over; else, or with a seed, it is begun anew."""
        super().reset(seed=seed)
        if seed is None and self.ended:
            told: dict[str, Any] = {}
            # After the end of a game a step begins the next one; after a lost life it may end the game.
            while self.ended:
                step = self.games.step(NOOP)
                told = step.episodes[0]._asdict() if step.episodes else told
                self.ended = bool(step.terminated[0] or step.truncated[0])
            return step.observation[0], told
        self.ended = False
        return self.games.reset([int(self.np_random.integers(2**31))])[0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        step = self.games.step(np.array([action]))
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        self.ended = terminated or truncated
        reward = float(np.clip(step.reward[0], -self.reward_clip, self.reward_clip))
        return step.observation[0], reward, terminated, truncated, {}

    def close(self) -> None:
        self.games.close()
