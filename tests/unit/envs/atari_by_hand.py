"""An Atari game stepped frame by frame, to compare the vector environment with."""

from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from ale_py import Action, ALEInterface, LoggerMode, roms

from envs.atari import AtariSettings, Episode, action_count

SETTLED = {"noop_max": 0, "sticky": 0.0}
"""Settings without chance, by which all games of a kind are the same game."""


class Answer(NamedTuple):
    """A row of `envs.atari.Step`."""

    observation: np.ndarray
    """(80, 80) uint8."""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    ended: bool = False
    reset: bool = False
    fired: bool = False
    start: bool = False
    valid: bool = False
    episodes: tuple[Episode, ...] = ()


@dataclass
class GameByHand:
    """A game that answers as `AtariGames` should, where the settings are settled."""

    settings: AtariSettings
    emulator: ALEInterface = field(default_factory=ALEInterface)

    def __post_init__(self):
        self.emulator.setLoggerMode(LoggerMode.Error)
        self.emulator.setFloat("repeat_action_probability", 0.0)
        self.emulator.loadROM(roms.get_rom_path(self.settings.rom))
        self.actions = self.emulator.getMinimalActionSet()

    @property
    def lives(self) -> int:
        return self.emulator.lives()

    def screen(self) -> np.ndarray:
        return self.emulator.getScreenGrayscale()

    def reset(self) -> np.ndarray:
        self.emulator.reset_game()
        if self.settings.fire_reset and Action.FIRE in self.actions:
            self.emulator.act(Action.FIRE)
        self.frames = self.length = 0
        self.score = 0.0
        self.over = self.must_fire = False
        self.last_two = [np.zeros((210, 160), np.uint8), self.screen()]
        return self.observation()

    def observation(self) -> np.ndarray:
        pooled = np.maximum(*self.last_two)
        return cv2.resize(pooled, (80, 80), interpolation=cv2.INTER_AREA)

    def step(self, action: int) -> Answer:
        if self.over:
            return Answer(self.reset(), reset=True, start=True)
        fired, lives, reward = self.must_fire, self.lives, 0.0
        pressed = Action.FIRE if fired else self.actions[action]
        pooled = np.maximum(*self.last_two)
        for frame in range(4):
            reward += self.emulator.act(pressed)
            self.frames += 1
            self.over = self.emulator.game_over() or self.frames == self.settings.max_frames
            if self.over:
                # ale-py does not look at the frame with which a game ends. The last observation shows earlier frames.
                self.last_two = [pooled, self.last_two[1]]
                break
            if frame == 2:
                self.last_two = [pooled, self.screen()]
            if frame == 3:
                self.last_two = [self.screen(), self.last_two[1]]
        self.score += reward
        if not fired:
            self.length += 1
        life_lost = self.lives < lives
        self.must_fire = False
        if life_lost and self.lives > 0 and not self.over and Action.FIRE in self.actions:
            self.must_fire = self.settings.fire_after_life_loss
        terminated, start = self.emulator.game_over(), self.emulator.game_over()
        if self.settings.life_loss_terminates:
            terminated, start = terminated or life_lost, start or life_lost or fired
        return Answer(
            self.observation(),
            reward,
            terminated=terminated,
            truncated=self.over and not terminated,
            ended=self.over,
            fired=fired,
            start=start,
            valid=not fired,
            episodes=(Episode(self.score, self.length),) if self.over else (),
        )


def random_actions(settings: AtariSettings, steps: int, games: int, seed: int = 0) -> np.ndarray:
    """Draws actions (T, N) int64."""
    return np.random.default_rng(seed).integers(0, action_count(settings.rom), (steps, games))
