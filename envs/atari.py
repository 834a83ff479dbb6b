"""Atari games in ale-py's vector environment: names, settings, and the one place that knows where episodes begin and end.

Shapes: N games. An observation is one 80 x 80 grey frame, the maximum over the last two of the frames skipped.
"""

import difflib
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import ale_py
import gymnasium
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv

FRAME = 80

gymnasium.register_envs(ale_py)


@dataclass(frozen=True)
class AtariSettings:
    """What decides whether two scores can be compared."""

    rom: str
    """ROM name of ale-py, as in "ms_pacman"."""
    sticky: float = 0.0
    """Probability that the emulator repeats the previous action, at every frame. 0 is the setting of the paper's time
    (`NoFrameskip-v4`); 0.25 that of Machado et al. 2018 (`ALE/...-v5`)."""
    frame_skip: int = 4
    """Emulator frames an action is held for: one agent step."""
    noop_max: int = 30
    """A game starts with fewer than this many no-op frames, drawn uniformly (ale-py's count)."""
    max_frames: int = 108_000
    """A game is cut (truncated) this many frames after its no-ops: 30 minutes of play."""
    fire_reset: bool = True
    """Press FIRE after a reset, in games that have it: some wait for it."""


def resolve(env: str) -> AtariSettings:
    """Settings of a game given by its bare name ("Seaquest", any case) or a Gymnasium id of ale-py.

    A bare name and `SeaquestNoFrameskip-v4` mean no sticky actions, `ALE/Seaquest-v5` and `...NoFrameskip-v0` sticky 0.25.

    Raises:
        ValueError: an unknown name (near names are given), or an id with random frame skip (`Seaquest-v4`).
    """
    if env in gymnasium.registry:
        settings = gymnasium.spec(env).kwargs
        if "game" in settings:
            if settings["frameskip"] not in (1, 4):
                raise ValueError(
                    f"env {env!r} skips a random number of frames, which is not supported; use a bare name, "
                    f"ALE/<Game>-v5 or <Game>NoFrameskip-v4"
                )
            return AtariSettings(rom=settings["game"], sticky=settings["repeat_action_probability"])
    games = _games()
    rom = {name.lower().replace("_", ""): rom for name, rom in games.items()}.get(
        env.lower().replace("_", "")
    )
    if rom is None:
        near = difflib.get_close_matches(
            env.split("/")[-1].split("-")[0].capitalize(), games, n=3, cutoff=0.6
        )
        hint = f"near names: {', '.join(near)}" if near else "use a game's name like Pong or MsPacman"
        raise ValueError(f"env {env!r} is no Atari game of ale-py; {hint}, or a full id like ALE/Pong-v5")
    return AtariSettings(rom=rom)


@cache
def _games() -> dict[str, str]:
    """Bare names to ROM names, as in {"MsPacman": "ms_pacman"}."""
    ids = [name for name in gymnasium.registry if name.startswith("ALE/")]
    return {
        name.removeprefix("ALE/").removesuffix("-v5"): gymnasium.spec(name).kwargs["game"] for name in ids
    }


@cache
def action_count(rom: str) -> int:
    """Number of actions in the game's minimal action set."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(roms.get_rom_path(rom))
    return len(ale.getMinimalActionSet())


class Episode(NamedTuple):
    """One full game: from reset to game over or the frame cap, not a life."""

    score: float
    """Sum of the rewards as the game gives them, not clipped."""
    length: int
    """Agent steps."""


class Step(NamedTuple):
    """What N games answered to one action each."""

    observation: np.ndarray  # (N, 1, 80, 80) uint8, after the action
    reward: np.ndarray  # (N,) float32, not clipped
    terminated: (
        np.ndarray
    )  # (N,) bool: game over, or a life lost where that ends an episode; the next value is 0
    truncated: np.ndarray  # (N,) bool: cut by the frame cap; the observation still has a value
    reset: np.ndarray  # (N,) bool: the action was ignored and the game began anew; this is no transition
    episodes: list[Episode]  # games that ended one step ago

    @property
    def start(self) -> np.ndarray:
        """(N,) bool: the observation is the first of an episode, so the recurrent state before it is zero."""
        return self.terminated | self.reset


class AtariGames:
    """`count` games stepped together in C++, each restarting by itself in the step after its end.

    With `life_loss_terminates`, losing a life also sets `terminated`, while the game itself goes on.
    """

    def __init__(
        self,
        settings: AtariSettings,
        count: int,
        *,
        life_loss_terminates: bool = False,
        threads: int = 1,
        screen: bool = False,
    ):
        """`screen`: observe the whole coloured screen, (N, 1, 210, 160, 3), instead of the small grey frame."""
        self._env = AtariVectorEnv(
            settings.rom,
            count,
            num_threads=threads,
            max_num_frames_per_episode=settings.max_frames,
            repeat_action_probability=settings.sticky,
            img_height=210 if screen else FRAME,
            img_width=160 if screen else FRAME,
            grayscale=not screen,
            stack_num=1,
            frameskip=settings.frame_skip,
            noop_max=settings.noop_max,
            life_loss_info=life_loss_terminates,
            reward_clipping=False,
            use_fire_reset=settings.fire_reset,
        )
        self.count = count

    def reset(self, seed: list[int]) -> np.ndarray:
        """Begins all games anew, game i from its seed: observation (N, 1, 80, 80) uint8."""
        entropy = np.random.SeedSequence(seed).generate_state(self.count)
        observation, info = self._env.reset(
            seed=(entropy >> 1).astype(np.int64)
        )  # ale-py's seeds have 31 bits
        self._frame = info["episode_frame_number"].copy()
        self._score = np.zeros(self.count)
        self._length = np.zeros(self.count, dtype=np.int64)
        return observation

    def step(self, actions: np.ndarray) -> Step:
        """Actions (N,) int64 -> what they led to."""
        observation, reward, terminated, truncated, info = self._env.step(actions)
        frame = info["episode_frame_number"]
        reset = frame < self._frame  # only a reset turns the clock back
        self._frame = frame.copy()
        episodes = [Episode(float(self._score[i]), int(self._length[i])) for i in np.flatnonzero(reset)]
        self._score = np.where(reset, 0, self._score + reward)
        self._length = np.where(reset, 0, self._length + 1)
        return Step(observation, reward.astype(np.float32), terminated, truncated, reset, episodes)

    def close(self) -> None:
        self._env.close()
