"""A3C on Ray: the parameter owner and the rollout workers as actors.

Each worker pushes a gradient and gets the new weights in the answer; nobody waits for anybody else.
"""

import os
from typing import Any, Self

import numpy as np
import ray
import torch
from ray.actor import ActorHandle

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_owner import Metrics, ParameterOwner, Snapshot, Weights
from agents.a3c.worker import Report, RolloutWorker
from agents.errors import TrainingError
from agents.ray_cluster import connect


@ray.remote
class OwnerActor:
    """The parameter owner as an actor; calls are served one after another."""

    def __init__(self, config: A3CConfig, snapshot: Snapshot | None):
        torch.set_num_threads(1)
        self.owner = ParameterOwner(config, snapshot)

    def pull(self) -> Weights:
        return self.owner.pull()

    def push(self, gradient: np.ndarray, report: Report) -> Weights:
        return self.owner.push(gradient, report)

    def drain(self) -> Metrics:
        return self.owner.drain()

    def snapshot(self) -> Snapshot:
        return self.owner.snapshot()


@ray.remote
class WorkerActor:
    """A rollout worker as an actor, one thread."""

    def __init__(self, config: A3CConfig, index: int, env_steps: int, random_state: torch.Tensor | None):
        torch.set_num_threads(1)
        self.worker = RolloutWorker(config, index, env_steps=env_steps, random_state=random_state)

    def run(self, owner: ActorHandle) -> None:
        """Rollout, push, again, until the run has taken its steps."""
        weights = ray.get(owner.pull.remote())
        while not weights.finished:
            self.worker.load(weights.vector)
            gradient, report = self.worker.rollout(weights.version)
            weights = ray.get(owner.push.remote(gradient, report))


class RayTraining:
    """Starts the actors and watches over them. One that fails ends the run with its error."""

    def __init__(self, config: A3CConfig, snapshot: Snapshot | None, *, address: str | None):
        self.env = config.env
        # A local cluster is told of as many CPUs as there are workers, so that it starts all of them on a smaller machine too.
        connect(address, cpus=max(config.workers, os.cpu_count() or 1))
        for kind, asked in (("CPU", config.workers), ("GPU", config.workers * config.gpus_per_worker)):
            there = ray.cluster_resources().get(kind, 0)
            if asked > there:  # Ray would wait for more without a word
                ray.shutdown()
                raise TrainingError(
                    f"{config.workers} workers need {asked:g} {kind}s, but the Ray cluster has {there:g}; "
                    f"ask for fewer --workers or a smaller share"
                )
        self.owner = OwnerActor.options(num_cpus=0).remote(config, snapshot)  # type: ignore[attr-defined]
        env_steps = snapshot.env_steps if snapshot else 0
        random_states = snapshot.random_states if snapshot else {}
        self.workers = [
            WorkerActor.options(num_cpus=1, num_gpus=config.gpus_per_worker).remote(  # type: ignore[attr-defined]
                config, index, env_steps, random_states.get(str(index))
            )
            for index in range(config.workers)
        ]
        self.running = [worker.run.remote(self.owner) for worker in self.workers]

    @property
    def finished(self) -> bool:
        return not self.running

    def advance(self) -> None:
        done, self.running = ray.wait(self.running, num_returns=1, timeout=1.0)
        self._get(done, f"a worker on {self.env}")

    def drain(self) -> Metrics:
        return self._get(self.owner.drain.remote(), "the parameter owner")

    def snapshot(self) -> Snapshot:
        return self._get(self.owner.snapshot.remote(), "the parameter owner")

    @staticmethod
    def _get(answer: Any, who: str) -> Any:
        try:
            return ray.get(answer)
        except ray.exceptions.RayError as error:
            cause = str(error).strip().splitlines()[-1]
            raise TrainingError(f"{who} failed: {cause}") from error

    def close(self) -> None:
        for actor in (*self.workers, self.owner):
            ray.kill(actor)
        ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
