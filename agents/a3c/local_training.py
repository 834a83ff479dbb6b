"""Training in this process, without Ray: for debugging, tests and a single GPU."""

import torch

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_owner import Metrics, ParameterOwner, Snapshot
from agents.a3c.training import Training
from agents.a3c.worker import begin_worker


class LocalTraining(Training):
    """One worker and the parameter owner, taking turns."""

    on_ray = False

    def __init__(self, config: A3CConfig, snapshot: Snapshot | None = None):
        torch.set_num_threads(config.cpus_per_worker)
        if config.deterministic:
            torch.use_deterministic_algorithms(True)
        self.owner = ParameterOwner(config, snapshot)
        self.worker = begin_worker(config, 0, self.owner.begin, self.owner.decide_precision)

    @property
    def finished(self) -> bool:
        return self.owner.finished

    def advance(self) -> None:
        weights = self.owner.pull()
        self.worker.load(weights.vector)
        self.owner.push(*self.worker.rollout(weights.version, weights.env_steps))

    def drain(self) -> Metrics:
        return self.owner.drain()

    def snapshot(self) -> Snapshot:
        return self.owner.snapshot().map(torch.clone)

    def close(self) -> None:
        self.worker.games.close()
