"""A trained policy that plays.

policy = load_policy("runs/Pong-neurocoder-...")
state = policy.initial_state()
action, state = policy.act(frame, state)

Shapes: N games, A actions, C frames of an observation, H units of the LSTM.
"""

from typing import Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from agents.actor_critic.sampling import sample_actions
from agents.errors import DivergedError
from agents.finite import first_not_finite
from envs.atari import AtariSettings, action_names
from neurocoder.networks.recurrent import FRAME, RecurrentActorCritic, State


class Opinion(NamedTuple):
    """A policy's value and action probabilities for frames."""

    value: np.ndarray
    """(N,) float32: the discounted sum of clipped rewards that the policy expects. A number for a single frame."""
    probabilities: np.ndarray
    """(N, A) float32: the probability of each of `Policy.actions`. (A,) for a single frame."""


class Policy:
    """A network and the settings of the game it was trained on.

    Attributes:
        settings: the game's settings in training, including how lives are treated.
        actions: the actions' names, as in ("NOOP", "FIRE", "RIGHT", "LEFT").
        network: the actor-critic; `network.actor` is the output layer that may be a Neurocoder.
    """

    def __init__(self, network: RecurrentActorCritic, settings: AtariSettings, *, seed: int = 0):
        """`seed` decides which actions are sampled."""
        self.network = network.eval().requires_grad_(False)
        self.settings, self.actions = settings, action_names(settings.rom)
        self.device = network.lstm.bias_ih.device
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restarts the random numbers that actions are sampled with."""
        self._generator = torch.Generator(self.device).manual_seed(seed)

    def initial_state(self, games: int = 1) -> State:
        """Returns the LSTM's state before the first frame of N games: zeros (N, H), twice."""
        return self.network.initial_state(games)

    @overload
    def act(
        self,
        frames: np.ndarray | Tensor,
        state: State,
        *,
        start: np.ndarray | bool | None = None,
        greedy: bool = False,
        with_opinion: Literal[False] = False,
    ) -> tuple[np.ndarray, State]: ...
    @overload
    def act(
        self,
        frames: np.ndarray | Tensor,
        state: State,
        *,
        start: np.ndarray | bool | None = None,
        greedy: bool = False,
        with_opinion: Literal[True],
    ) -> tuple[np.ndarray, State, Opinion]: ...
    @torch.no_grad()
    def act(
        self,
        frames: np.ndarray | Tensor,
        state: State,
        *,
        start: np.ndarray | bool | None = None,
        greedy: bool = False,
        with_opinion: bool = False,
    ) -> tuple[np.ndarray, State] | tuple[np.ndarray, State, Opinion]:
        """Chooses an action for every frame.

        Args:
            frames: observations (N, C, 80, 80) uint8, or one observation (C, 80, 80).
            state: from `initial_state`, or from the last `act`.
            start: (N,) bool, True where an episode starts with this frame, so that the state before it is zero. Or
                one bool for all.
            greedy: take the likeliest action; otherwise sample, as in training.
            with_opinion: also return an `Opinion`.

        Returns:
            Actions (N,) int64, or a single integer for one frame. The state after these frames. The opinion, if
            asked for.

        Raises:
            ValueError: frames of another shape or type, or a state or `start` for another number of games.
            DivergedError: the probabilities are not finite. It is a ValueError, too.
        """
        x, channels, units = torch.as_tensor(frames), self.network.channels, self.network.lstm.hidden_size
        if x.dtype != torch.uint8 or x.dim() not in (3, 4) or x.shape[-3:] != (channels, FRAME, FRAME):
            raise ValueError(
                f"frames are {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}; they must be uint8 "
                f"(N, {channels}, {FRAME}, {FRAME}) or ({channels}, {FRAME}, {FRAME})"
            )
        single = x.dim() == 3
        x = x.reshape(-1, channels, FRAME, FRAME).to(self.device)
        games = len(x)
        if any(part.shape != (games, units) for part in state):
            shapes = ", ".join(str(tuple(part.shape)) for part in state)
            raise ValueError(
                f"the state's shapes are {shapes}; {games} frames need ({games}, {units}) twice: "
                f"make one with initial_state({games})"
            )
        starts = np.asarray(False if start is None else start, dtype=bool)
        if starts.shape not in ((), (games,)):
            raise ValueError(f"start has shape {starts.shape}; it must be a bool or ({games},)")
        begins = torch.tensor(np.broadcast_to(starts, games), device=self.device)
        hidden, state = self.network.step(self.network.features(x), state, begins)
        probabilities = self.network.actor(hidden).softmax(dim=-1)  # (N, A)
        chosen = probabilities.argmax(dim=-1) if greedy else sample_actions(probabilities, self._generator)
        actions = chosen.cpu().numpy()
        if not probabilities.isfinite().all():
            raise DivergedError(self._what_diverged())
        if not with_opinion:
            return (actions[0] if single else actions), state
        value = self.network.critic(hidden).squeeze(-1).cpu().numpy()
        opinion = Opinion(value, probabilities.cpu().numpy())
        if single:
            return actions[0], state, Opinion(value[0], opinion.probabilities[0])
        return actions, state, opinion

    def _what_diverged(self) -> str:
        name = first_not_finite(self.network.state_dict())
        if name is None:
            return "the policy has diverged: its probabilities are not finite, though its parameters are"
        return f"the policy has diverged: its parameter {name} is not finite"
