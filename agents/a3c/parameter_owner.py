"""The parameter owner: one copy of the weights and of the optimiser's statistics, which all workers share.

It knows nothing of Ray. n: number of parameters.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.a3c.config import A3CConfig
from agents.a3c.optimizers import build_optimizer
from agents.a3c.policy import build_policy, flatten_parameters
from agents.a3c.worker import Report
from envs.atari import Episode, action_count, resolve

RECENT_EPISODES = 100  # over which the mean return is taken


class Weights(NamedTuple):
    """An answer to a worker."""

    version: int
    """Updates applied so far."""
    vector: np.ndarray  # (n,) float32
    finished: bool
    """The run has taken all its steps: stop."""


@dataclass(frozen=True)
class Snapshot:
    """All that a run needs to continue, between two updates."""

    env_steps: int
    updates: int
    episodes: int
    recent_returns: list[float]
    parameters: dict[str, Tensor]
    """By name, as in the network's state dict."""
    optimizer: dict[str, Tensor]
    """Statistics over the flat parameter vector, by name."""
    random_states: dict[str, Tensor]
    """Of each worker's action generator, by the worker's number, uint8."""
    attention: np.ndarray | None = None
    """The latest mean attention over slots, (3, H, P), for a picture; not needed to continue."""

    @property
    def mean_return(self) -> float | None:
        """Over the last 100 games; None before the first has ended."""
        return float(np.mean(self.recent_returns)) if self.recent_returns else None


@dataclass
class Metrics:
    """What happened since the last look."""

    env_steps: int
    updates: int
    learning_rate: float
    mean_return: float | None
    losses: dict[str, float] = field(default_factory=dict)
    """Means over the updates since the last look."""
    staleness: float | None = None
    """Mean number of versions that a gradient's weights were behind when it came."""
    episodes: list[tuple[int, Episode]] = field(default_factory=list)
    """With the step count at which each was reported."""
    attention: np.ndarray | None = None
    """The latest mean attention over slots, (3, H, P)."""


class ParameterOwner:
    """Applies gradients in the order they come; every answer carries the new weights."""

    def __init__(self, config: A3CConfig, snapshot: Snapshot | None = None):
        self.config = config
        torch.manual_seed(config.seed)
        self.network = build_policy(config, action_count(resolve(config.env).rom))
        self.flat = nn.Parameter(flatten_parameters(self.network)[0])
        self.optimizer = build_optimizer(config, self.flat)
        self.env_steps = self.updates = self.episodes = 0
        self.recent_returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.random_states: dict[str, Tensor] = {}
        self.attention: np.ndarray | None = None
        if snapshot is not None:
            self._restore(snapshot)
        self._reports: list[
            tuple[int, int, Report]
        ] = []  # (env_steps, staleness, report) since the last look

    def _restore(self, snapshot: Snapshot) -> None:
        self.network.load_state_dict(snapshot.parameters)  # into the views of the flat vector
        self.optimizer.state[self.flat] = {
            name: tensor.clone() for name, tensor in snapshot.optimizer.items()
        }
        self.env_steps, self.updates, self.episodes = snapshot.env_steps, snapshot.updates, snapshot.episodes
        self.recent_returns.extend(snapshot.recent_returns)
        self.random_states = dict(snapshot.random_states)

    @property
    def learning_rate(self) -> float:
        """At the present step count."""
        left = max(0.0, 1 - self.env_steps / self.config.total_steps) if self.config.anneal else 1.0
        return self.config.learning_rate * left

    @property
    def finished(self) -> bool:
        return self.env_steps >= self.config.total_steps

    def pull(self) -> Weights:
        return Weights(self.updates, self.flat.detach().numpy(), self.finished)

    def push(self, gradient: np.ndarray, report: Report) -> Weights:
        """Applies one gradient (n,) and answers with the weights after it."""
        staleness = self.updates - report.version
        self.optimizer.param_groups[0]["lr"] = self.learning_rate
        self.flat.grad = torch.from_numpy(gradient)
        self.optimizer.step()
        self.updates += 1
        self.env_steps += report.steps
        self.episodes += len(report.episodes)
        self.recent_returns.extend(episode.score for episode in report.episodes)
        self.random_states[str(report.worker)] = report.random_state
        if report.attention is not None:
            self.attention = report.attention
        self._reports.append((self.env_steps, staleness, report))
        return self.pull()

    def drain(self) -> Metrics:
        """What happened since the last call."""
        reports, self._reports = self._reports, []
        metrics = Metrics(
            env_steps=self.env_steps,
            updates=self.updates,
            learning_rate=self.learning_rate,
            mean_return=float(np.mean(self.recent_returns)) if self.recent_returns else None,
            attention=self.attention,
        )
        if reports:
            names = reports[0][2].losses
            metrics.losses = {
                name: float(np.mean([report.losses[name] for _, _, report in reports])) for name in names
            }
            metrics.staleness = float(np.mean([staleness for _, staleness, _ in reports]))
        for env_steps, _, report in reports:
            metrics.episodes += [(env_steps, episode) for episode in report.episodes]
        return metrics

    def snapshot(self) -> Snapshot:
        return Snapshot(
            env_steps=self.env_steps,
            updates=self.updates,
            episodes=self.episodes,
            recent_returns=list(self.recent_returns),
            parameters={name: tensor.clone() for name, tensor in self.network.state_dict().items()},
            optimizer={name: tensor.clone() for name, tensor in self.optimizer.state[self.flat].items()},
            random_states=dict(self.random_states),
            attention=self.attention,
        )
