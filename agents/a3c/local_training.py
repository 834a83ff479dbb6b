"""Training in this process, without Ray: for debugging, tests and a single GPU."""

import torch

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_server import ParameterServer
from agents.a3c.worker import begin_worker
from agents.actor_critic.training import Metrics, Snapshot, Training


class LocalTraining(Training):
    """One worker and the parameter server, taking turns."""

    on_ray = False

    def __init__(self, config: A3CConfig, snapshot: Snapshot | None = None):
        torch.set_num_threads(config.cpus_per_worker)
        if config.deterministic:
            torch.use_deterministic_algorithms(True)
        self.server = ParameterServer(config, snapshot)
        self.worker = begin_worker(config, 0, self.server.begin, self.server.decide_precision)

    @property
    def finished(self) -> bool:
        return self.server.finished

    def advance(self) -> None:
        weights = self.server.pull()
        self.worker.load(weights.vector)
        self.server.push(*self.worker.rollout(weights.version, weights.env_steps))

    def drain(self) -> Metrics:
        return self.server.drain()

    def snapshot(self) -> Snapshot:
        return self.server.snapshot().map(torch.clone)

    def close(self) -> None:
        self.worker.games.close()
