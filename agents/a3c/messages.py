"""What a worker and the parameter server send each other. n: number of parameters."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from envs.atari import Episode


class Weights(NamedTuple):
    """An answer to a worker."""

    version: int
    """Updates applied so far."""
    env_steps: int
    """Agent steps taken so far, by all workers."""
    vector: np.ndarray  # (n,) float32
    finished: bool
    """The run has taken all its steps: stop."""


class Start(NamedTuple):
    """Where a worker's games and its action generator continue from."""

    env_steps: int
    random_state: Tensor | None
    precision: str | None
    """What workers on its kind of node compute in; None if that is not decided yet."""


@dataclass(frozen=True)
class Report:
    """What a worker tells of one rollout, beside the gradient."""

    worker: int
    attempt: int
    """How often the worker has been restarted."""
    number: int
    """The number of the rollout since then, from 1."""
    version: int
    """Version of the weights that the gradient was computed with."""
    steps: int
    """Agent steps taken."""
    scalars: dict[str, float]
    """What TensorBoard shows of the rollout, by tag (docs/curves.md)."""
    seconds: dict[str, float]
    """exchange (between the rollout before and this one), play (games and acting), gradient."""
    episodes: list[Episode]
    random_state: Tensor
    """State of the worker's action generator after the rollout, uint8."""
    not_finite: str | None = None
    """The first thing with a NaN or an infinity in it, if there is one: the gradient is worthless."""
    attention: np.ndarray | None = None
    """Now and then, for a Neurocoder actor: the mean attention over the slots, (3, H, P)."""
