"""Atari games in ale-py's vector environment: names, settings, and where episodes begin and end.

Shapes: N games, C frames. A frame is 80 x 80 grey, the maximum over the last two of the frames skipped. An
observation is the C newest frames, the newest last. Those before the start of a game are black.
"""

import difflib
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import ale_py
import gymnasium
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv

FRAME = 80
"""Height and width of an observation in pixels."""

gymnasium.register_envs(ale_py)


@dataclass(frozen=True)
class AtariSettings:
    """The settings of a game. Scores can be compared only if these are the same."""

    rom: str
    """Name of the game's ROM file in ale-py, as in "ms_pacman"."""
    sticky: float = 0.0
    """Probability that the emulator repeats the previous action, at every frame. 0 is the setting of the
    paper's time (`NoFrameskip-v4`). 0.25 is that of Machado et al. 2018 (`ALE/...-v5`)."""
    frame_skip: int = 4
    """Number of emulator frames that an action is held for. Together they are one agent step."""
    noop_max: int = 30
    """A game starts with a random number of frames without an action, uniform from 0 to one less than this."""
    max_frames: int = 108_000
    """A game is cut (truncated) after this number of frames, which do not include those at its start.
    108,000 frames are 30 minutes of play."""
    fire_reset: bool = True
    """Press FIRE at the start of a game, if the game has that action: some games wait for it."""
    fire_after_life_loss: bool = True
    """Press FIRE in the step after a lost life, too, as `FireResetEnv` over `EpisodicLifeEnv` of OpenAI
    baselines does. Without this, a policy that never fires would stand still for the rest of the game."""
    life_loss_terminates: bool = False
    """A lost life ends the episode for the policy, while the game itself continues."""
    stack: int = 1
    """C, the number of frames of an observation."""


def resolve(env: str) -> AtariSettings:
    """Returns the settings of a game by its bare name ("Seaquest", in any case) or its Gymnasium id.

    A bare name and `SeaquestNoFrameskip-v4` mean no sticky actions. `ALE/Seaquest-v5` and
    `SeaquestNoFrameskip-v0` mean sticky actions with a probability of 0.25.

    Raises:
        ValueError: an unknown name, to which the message adds near ones, or an id with random frame skip
            (`Seaquest-v4`).
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
        # PongDeterministic-v4 and Pong-ram-v0 are names of other wrappers around Pong.
        bare = env.split("/")[-1].split("-")[0].removesuffix("Deterministic").removesuffix("NoFrameskip")
        near = difflib.get_close_matches(bare.capitalize(), games, n=3, cutoff=0.6)
        hint = f"near names: {', '.join(near)}" if near else "use a game's name like Pong or MsPacman"
        raise ValueError(f"env {env!r} is no Atari game of ale-py; {hint}, or a full id like ALE/Pong-v5")
    return AtariSettings(rom=rom)


@cache
def _games() -> dict[str, str]:
    """Returns the ROM names by bare names, as in {"MsPacman": "ms_pacman"}."""
    ids = [name for name in gymnasium.registry if name.startswith("ALE/")]
    return {
        name.removeprefix("ALE/").removesuffix("-v5"): gymnasium.spec(name).kwargs["game"] for name in ids
    }


@cache
def action_names(rom: str) -> tuple[str, ...]:
    """Returns the game's minimal action set in ale-py's order, as in ("NOOP", "FIRE", "RIGHT", "LEFT")."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(roms.get_rom_path(rom))
    return tuple(action.name for action in ale.getMinimalActionSet())


def action_count(rom: str) -> int:
    """Returns the number of actions in the game's minimal action set."""
    return len(action_names(rom))


class Episode(NamedTuple):
    """A full game, from reset to game over or the frame cap. The end of a life does not end it."""

    score: float
    """Sum of the rewards as the game gives them, not clipped."""
    length: int
    """Number of agent steps, which are the actions that the player chose."""


class Step(NamedTuple):
    """The answer of N games to one action each."""

    observation: np.ndarray
    """(N, C, 80, 80) uint8, after the action."""
    reward: np.ndarray
    """(N,) float32, not clipped."""
    terminated: np.ndarray
    """(N,) bool: game over, or a life lost where that ends an episode. The value of the next state is 0."""
    truncated: np.ndarray
    """(N,) bool: cut by the frame cap. The value of the observation is not 0."""
    ended: np.ndarray
    """(N,) bool: the game is over or cut. The next step starts a new one."""
    reset: np.ndarray
    """(N,) bool: a new game started, and the action was ignored."""
    fired: np.ndarray
    """(N,) bool: FIRE was pressed after a lost life, and the action was ignored."""
    start: np.ndarray
    """(N,) bool: the observation is the first of an episode, so the recurrent state before it is zero."""
    episodes: list[Episode]
    """The games that ended in this step, in the order of their numbers."""

    @property
    def valid(self) -> np.ndarray:
        """(N,) bool: the action was taken, so the step is a transition."""
        return ~(self.reset | self.fired)


class Emulators(Protocol):
    """The part of ale-py's `AtariVectorEnv` that `AtariGames` uses.

    A game restarts in the step after its end.
    """

    def reset(self, *, seed: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]: ...
    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]: ...
    def close(self) -> None: ...


class AtariGames:
    """`count` games, stepped together in C++. A game restarts in the step after its end."""

    def __init__(
        self,
        settings: AtariSettings,
        count: int,
        *,
        threads: int = 1,
        screen: bool = False,
        emulators: Emulators | None = None,
    ):
        """
        Args:
            threads: the number of threads that step the games.
            screen: observe the whole coloured screen, (N, 1, 210, 160, 3), instead of the small grey frame.
            emulators: step these instead of ale-py's vector environment.
        """
        self._emulators = emulators or AtariVectorEnv(
            settings.rom,
            count,
            num_threads=threads,
            max_num_frames_per_episode=settings.max_frames,
            repeat_action_probability=settings.sticky,
            img_height=210 if screen else FRAME,
            img_width=160 if screen else FRAME,
            grayscale=not screen,
            stack_num=1 if screen else settings.stack,
            frameskip=settings.frame_skip,
            noop_max=settings.noop_max,
            reward_clipping=False,
            use_fire_reset=settings.fire_reset,
        )
        self.settings, self.count = settings, count
        names = action_names(settings.rom)
        self._fires = settings.fire_after_life_loss and "FIRE" in names
        self._fire = names.index("FIRE") if self._fires else -1

    def reset(self, seed: list[int], *, first: int = 0) -> np.ndarray:
        """Starts new games, and returns their first observation, (N, C, 80, 80) uint8.

        Args:
            seed: non-negative numbers that together decide a sequence of games.
            first: the place in that sequence of the first game of this vector.
        """
        entropy = np.random.SeedSequence(seed).generate_state(first + self.count)[first:]
        # ale-py's seeds have 31 bits.
        observation, info = self._emulators.reset(seed=(entropy >> 1).astype(np.int64))
        self.lives = info["lives"].copy()
        self.score = np.zeros(self.count)
        self.length = np.zeros(self.count, dtype=np.int64)
        self._ended = np.zeros(self.count, dtype=bool)
        self.fires_next = np.zeros(self.count, dtype=bool)
        return observation

    def step(self, actions: np.ndarray) -> Step:
        """Takes one action in each game, (N,) int64.

        A game that ended in the last step, or has to fire after a lost life, ignores its action.
        """
        reset, fired = self._ended, self.fires_next
        if fired.any():
            actions = np.where(fired, self._fire, actions)
        observation, reward, game_over, truncated, info = self._emulators.step(actions)
        life_lost = (info["lives"] < self.lives) & ~reset
        self.lives = info["lives"].copy()
        self._ended = game_over | truncated
        if self._fires:
            # Qbert shows no lives for some frames before its game is over.
            self.fires_next = life_lost & ~self._ended & (self.lives > 0)
        self.score = np.where(reset, 0, self.score + reward)
        self.length = np.where(reset, 0, self.length + ~fired)
        terminated, start = game_over, game_over | reset
        if self.settings.life_loss_terminates:
            terminated, start = game_over | life_lost, start | life_lost | fired
        return Step(
            observation=observation,
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated & ~terminated,
            ended=self._ended,
            reset=reset,
            fired=fired,
            start=start,
            episodes=[
                Episode(float(self.score[i]), int(self.length[i])) for i in np.flatnonzero(self._ended)
            ],
        )

    def close(self) -> None:
        self._emulators.close()
