"""The training loop, in this process or on Ray, behind one interface.

    with start_training(config) as training:
        while not training.finished:
            training.advance()
            metrics = training.drain()
            snapshot = training.snapshot()

Writing curves and checkpoints is the caller's.
"""

from typing import Protocol, Self

import torch

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_owner import Metrics, ParameterOwner, Snapshot
from agents.a3c.worker import RolloutWorker


class TrainingError(RuntimeError):
    """Training cannot go on; one line that says which part failed and why."""


class Training(Protocol):
    @property
    def finished(self) -> bool: ...

    def advance(self) -> None:
        """Goes on with training for one update, or for about a second where updates are applied elsewhere.

        Raises TrainingError if it cannot go on."""

    def drain(self) -> Metrics:
        """What happened since the last call."""

    def snapshot(self) -> Snapshot:
        """The state between two updates."""

    def close(self) -> None:
        """Frees games and actors."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


class LocalTraining:
    """One worker and the parameter owner in this process, without Ray: for debugging, tests and a single GPU."""

    def __init__(self, config: A3CConfig, snapshot: Snapshot | None = None):
        if config.deterministic:
            torch.use_deterministic_algorithms(True)
        self.owner = ParameterOwner(config, snapshot)
        self.worker = RolloutWorker(
            config, 0, env_steps=self.owner.env_steps, random_state=self.owner.random_states.get("0")
        )

    @property
    def finished(self) -> bool:
        return self.owner.finished

    def advance(self) -> None:
        weights = self.owner.pull()
        self.worker.load(weights.vector)
        self.owner.push(*self.worker.rollout(weights.version))

    def drain(self) -> Metrics:
        return self.owner.drain()

    def snapshot(self) -> Snapshot:
        return self.owner.snapshot()

    def close(self) -> None:
        self.worker.games.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def start_training(
    config: A3CConfig, snapshot: Snapshot | None = None, *, address: str | None = None
) -> Training:
    """Starts, or continues from `snapshot`. `address` is that of a running Ray cluster, None starts a local one."""
    if config.workers == 0:
        return LocalTraining(config, snapshot)
    from agents.a3c.ray_training import RayTraining  # Ray only where it is asked for

    return RayTraining(config, snapshot, address=address)
