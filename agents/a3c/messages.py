"""What a worker and the parameter server send each other. n: number of parameters."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from envs.atari import Episode


class Weights(NamedTuple):
    """The parameter server's answer to a worker."""

    version: int
    """Updates that were applied to these weights."""
    env_steps: int
    """Agent steps taken so far, by all workers."""
    vector: np.ndarray  # (n,) float32
    finished: bool
    """True when the run has taken all its steps and the worker must stop."""


class Start(NamedTuple):
    """The point that a worker continues from."""

    env_steps: int
    random_state: Tensor | None
    precision: str | None
    """Precision of workers on this kind of node, fp32 or bf16; None if none is chosen yet."""


@dataclass(frozen=True)
class Report:
    """What a worker reports about one rollout, together with its gradient."""

    worker: int
    attempt: int
    """How often the worker has been restarted."""
    number: int
    """Number of the rollout since the last restart, from 1."""
    version: int
    """Version of the weights that the gradient was computed with."""
    steps: int
    """Agent steps taken."""
    scalars: dict[str, float]
    """What TensorBoard shows, by tag (docs/curves.md)."""
    seconds: dict[str, float]
    """Time by part: exchange (since the last rollout), play (games and acting), gradient."""
    episodes: list[Episode]
    random_state: Tensor
    """State of the worker's action generator after the rollout, uint8."""
    not_finite: str | None = None
    """What contains a NaN or an infinity, so that the gradient cannot be used; None if all is finite."""
    attention: np.ndarray | None = None
    """Mean attention over the slots, (3, H, P), in some reports of a Neurocoder actor."""
