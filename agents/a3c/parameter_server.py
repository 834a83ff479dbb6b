"""The parameter server: the one copy of the weights and the optimiser's statistics that all workers share.

It knows nothing of Ray. n: number of parameters.
"""

import time
from collections import Counter, deque

import numpy as np
import torch
from torch import Tensor, nn

from agents.a3c.config import A3CConfig
from agents.a3c.flat_parameters import flatten_parameters
from agents.a3c.messages import Report, Start, Weights
from agents.a3c.optimizers import build_optimizer
from agents.actor_critic.config import RECENT_EPISODES
from agents.actor_critic.diagnostics import means
from agents.actor_critic.network import build_network
from agents.actor_critic.training import Metrics, Snapshot
from agents.errors import LOWER_RATE, TrainingError


class ParameterServer:
    """Applies gradients in the order they arrive. Every answer carries the new weights.

    A gradient that arrives twice or too late, or that is not finite, is discarded and counted.
    """

    def __init__(self, config: A3CConfig, snapshot: Snapshot | None = None):
        self.config = config
        torch.manual_seed(config.seed)
        self.network = build_network(config)
        self.flat = nn.Parameter(flatten_parameters(self.network)[0])
        self.optimizer = build_optimizer(config, self.flat)
        self.env_steps = self.updates = self.episodes = 0
        self.recent_returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.random_states: dict[str, Tensor] = {}
        self.precisions: dict[str, str] = {}
        self.attention: np.ndarray | None = None
        self.faults: Counter[str] = Counter(duplicate=0, late=0, not_finite=0, steps_lost=0)
        self._latest: dict[int, tuple[int, int]] = {}  # worker -> (attempt, number) of its last push
        self._last_heard: dict[int, float] = {}  # worker -> when it last began or pushed
        if snapshot is not None:
            self._restore(snapshot)
        # (env_steps, staleness, report) of the updates since `drain` was called last
        self._reports: list[tuple[int, int, Report]] = []

    def _restore(self, snapshot: Snapshot) -> None:
        self.network.load_state_dict(snapshot.parameters)  # into the views of the flat vector
        self.optimizer.state[self.flat] = {
            name: tensor.clone() for name, tensor in snapshot.optimizer.items()
        }
        self.env_steps, self.updates, self.episodes = snapshot.env_steps, snapshot.updates, snapshot.episodes
        self.recent_returns.extend(snapshot.recent_returns)
        self.random_states = dict(snapshot.random_states)
        if self.config.precision == "auto":
            self.precisions = dict(snapshot.precisions)

    @property
    def learning_rate(self) -> float:
        """The learning rate at the present step count."""
        return self.config.learning_rate_at(self.env_steps)

    @property
    def finished(self) -> bool:
        return self.env_steps >= self.config.total_steps

    def pull(self) -> Weights:
        return Weights(self.updates, self.env_steps, self.flat.detach().numpy(), self.finished)

    def begin(self, worker: int, node_kind: str) -> Start:
        """Tells a worker where to continue from, before its first rollout."""
        self._last_heard[worker] = time.monotonic()
        return Start(self.env_steps, self.random_states.get(str(worker)), self.precisions.get(node_kind))

    def decide_precision(self, node_kind: str, precision: str) -> str:
        """Fixes the precision of a kind of node to what its first worker has chosen, and returns it."""
        return self.precisions.setdefault(node_kind, precision)

    def end(self, worker: int) -> int | None:
        """Notes that a worker has ended.

        Returns the attempt that its last gradient came from; None without a gradient.
        """
        self._last_heard.pop(worker, None)
        return self._latest.get(worker, (None,))[0]

    def silences(self) -> dict[int, float]:
        """Returns the seconds since each worker began or pushed."""
        now = time.monotonic()
        return {worker: now - heard for worker, heard in self._last_heard.items()}

    def push(self, gradient: np.ndarray, report: Report) -> Weights:
        """Applies one gradient (n,), unless it must be discarded, and returns the newest weights.

        Raises:
            TrainingError: more than `max_bad_updates` gradients were not finite.
        """
        self._last_heard[report.worker] = time.monotonic()
        if (report.attempt, report.number) <= self._latest.get(report.worker, (0, 0)):
            self.faults["duplicate"] += 1
            return self.pull()
        self._latest[report.worker] = (report.attempt, report.number)
        if report.not_finite is not None:
            self._discard("not_finite", report)
            if self.faults["not_finite"] > self.config.max_bad_updates:
                raise TrainingError(
                    f"{report.not_finite} was not finite in worker {report.worker} on {self.config.env}, and "
                    f"{self.faults['not_finite']} updates had to be discarded; {LOWER_RATE}"
                )
        elif self.updates - report.version > self.config.max_staleness:
            self._discard("late", report)
        else:
            self._apply(gradient, report)
        return self.pull()

    def _discard(self, fault: str, report: Report) -> None:
        self.faults[fault] += 1
        self.faults["steps_lost"] += report.steps

    def _apply(self, gradient: np.ndarray, report: Report) -> None:
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

    def drain(self) -> Metrics:
        """Returns what happened since the last call."""
        reports, self._reports = self._reports, []
        metrics = Metrics(
            env_steps=self.env_steps,
            updates=self.updates,
            learning_rate=self.learning_rate,
            entropy_weight=self.config.entropy_weight_at(self.env_steps),
            mean_return=float(np.mean(self.recent_returns)) if self.recent_returns else None,
            attention=self.attention,
            precisions=dict(self.precisions),
            faults=dict(self.faults),
        )
        if reports:
            metrics.scalars = means([report.scalars for _, _, report in reports])
            metrics.seconds = means([report.seconds for _, _, report in reports])
            metrics.staleness = float(np.mean([staleness for _, staleness, _ in reports]))
        for env_steps, _, report in reports:
            metrics.episodes += [(env_steps, episode) for episode in report.episodes]
        return metrics

    def snapshot(self) -> Snapshot:
        """Returns the state. Its tensors are the server's own: copy them before the next push."""
        return Snapshot(
            env_steps=self.env_steps,
            updates=self.updates,
            episodes=self.episodes,
            recent_returns=list(self.recent_returns),
            parameters=self.network.state_dict(),
            optimizer=dict(self.optimizer.state[self.flat]),
            random_states=dict(self.random_states),
            precisions=dict(self.precisions),
            attention=self.attention,
        )
