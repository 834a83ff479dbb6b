"""A3C on Ray: the parameter server and the rollout workers as actors.

Each worker pushes a gradient and receives the newest weights in the answer. Nobody waits for anybody else. A worker
that dies or hangs is restarted. The parameter server has the only copy of the weights. If it dies, the run ends and
can be resumed from its newest checkpoint.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util import get_current_placement_group
from torch import Tensor

from agents.a3c.config import A3CConfig
from agents.a3c.messages import Report, Start, Weights
from agents.a3c.parameter_server import ParameterServer
from agents.a3c.worker import begin_worker
from agents.actor_critic.training import Metrics, Snapshot, Training
from agents.errors import TrainingError
from agents.freed_memory import return_freed_memory
from agents.ray_cluster import available_cores, beside_driver, check_room, connect


@ray.remote
class ServerActor:
    """The parameter server as an actor. It serves one call after another."""

    def __init__(self, config: A3CConfig, snapshot: Snapshot | None):
        return_freed_memory()
        torch.set_num_threads(1)
        self.server = ParameterServer(config, snapshot)

    def begin(self, worker: int, node_kind: str) -> Start:
        return self.server.begin(worker, node_kind)

    def decide_precision(self, node_kind: str, precision: str) -> str:
        return self.server.decide_precision(node_kind, precision)

    def end(self, worker: int) -> int | None:
        return self.server.end(worker)

    def silences(self) -> dict[int, float]:
        return self.server.silences()

    def pull(self) -> Weights:
        return self.server.pull()

    def push(self, gradient: np.ndarray, report: Report) -> Weights:
        return self.server.push(gradient, report)

    def drain(self) -> Metrics:
        return self.server.drain()

    def snapshot(self) -> Snapshot:
        """Returns the state with arrays in place of tensors, which Ray would copy once more on this process's heap."""
        return self.server.snapshot().map(Tensor.numpy)


def work(config: A3CConfig, index: int, attempt: int, server: ActorHandle) -> None:
    """Repeats rollout and push until the run has taken all its steps."""
    torch.set_num_threads(config.cpus_per_worker)
    worker = begin_worker(
        config,
        index,
        lambda *arguments: ray.get(server.begin.remote(*arguments)),
        lambda *arguments: ray.get(server.decide_precision.remote(*arguments)),
        attempt=attempt,
    )
    weights = ray.get(server.pull.remote())
    while not weights.finished:
        worker.load(weights.vector)
        gradient, report = worker.rollout(weights.version, weights.env_steps)
        weights = ray.get(server.push.remote(gradient, report))


@ray.remote
class WorkerActor:
    """A rollout worker as an actor."""

    def work(self, config: A3CConfig, index: int, attempt: int, server: ActorHandle) -> None:
        work(config, index, attempt, server)


@dataclass(frozen=True)
class Worker:
    """A worker as the driver sees it."""

    index: int
    attempt: int
    actor: ActorHandle
    failures: int
    """Consecutive failures, without a gradient in between."""
    first_cause: str
    """Cause of the first of these failures."""


class RayTraining(Training):
    """Starts the actors, and restarts workers that fail."""

    def __init__(self, config: A3CConfig, snapshot: Snapshot | None, *, address: str | None):
        return_freed_memory()
        self.config = config
        # A local cluster offers as many CPUs as the workers need, so that all of them start on a smaller machine, too.
        needed = 0 if config.workers == "auto" else config.workers * config.cpus_per_worker
        with connect(address, cpus=max(needed, available_cores())) as connection:
            workers = 1 if config.workers == "auto" else config.workers
            check_room(workers, "workers", cpus=config.cpus_per_worker, gpus=config.gpus_per_worker)
            self.connection = connection.pop_all()
        # Workers are spread over the nodes. Those of a sweep stay in the placement group of their run.
        self.spread = "SPREAD" if get_current_placement_group() is None else beside_driver()
        placed_server = ServerActor.options(  # type: ignore[attr-defined]
            num_cpus=0,
            scheduling_strategy=beside_driver(),
            enable_task_events=False,  # Ray would keep 4 kB for each of the last 100,000 pushes
        )
        self.server = placed_server.remote(config, snapshot)
        self.running: dict[Any, Worker] = {}  # by the reference that is ready when the worker ends
        self.at_work = 0  # workers that have found a place
        self.restarts = 0
        self.closed = False
        self.messages: list[str] = []
        for index in range(max(1, self._free_places()) if config.workers == "auto" else config.workers):
            self._start(index)
        self.started = len(self.running)

    @property
    def finished(self) -> bool:
        return not self.running

    def advance(self) -> None:
        ended, _ = ray.wait(list(self.running), num_returns=1, timeout=1.0)
        for answer in ended:
            worker = self.running.pop(answer)
            try:
                ray.get(answer)
            except RayError as error:
                root = _root(error)
                if isinstance(root, TrainingError):
                    raise root from error
                self._restart(worker, _cause(error))
        silences = self._ask(self.server.silences.remote())
        self.at_work = len(silences)
        self._end_stalled(silences)
        if self.config.workers == "auto" and self.at_work == len(self.running) > 0:
            for _ in range(self._free_places()):
                self._start(self.started)
                self.started += 1

    def drain(self) -> Metrics:
        metrics = self._ask(self.server.drain.remote())
        rollout = self.config.rollout_steps * self.config.envs_per_worker
        metrics.faults["restarts"] = self.restarts
        metrics.faults["steps_lost"] += self.restarts * rollout
        metrics.workers = self.at_work
        metrics.messages, self.messages = self.messages, []
        return metrics

    def snapshot(self) -> Snapshot:
        return self._ask(self.server.snapshot.remote()).map(torch.tensor)

    def _free_places(self) -> int:
        """Returns the number of workers that the cluster's free cores and GPUs would hold."""
        free, config = ray.available_resources(), self.config
        places = free.get("CPU", 0) / config.cpus_per_worker
        if config.gpus_per_worker:
            places = min(places, free.get("GPU", 0) / config.gpus_per_worker)
        return int(places)

    def _start(self, index: int, *, attempt: int = 0, failures: int = 0, first_cause: str = "") -> None:
        config = self.config
        actor = WorkerActor.options(  # type: ignore[attr-defined]
            num_cpus=config.cpus_per_worker, num_gpus=config.gpus_per_worker, scheduling_strategy=self.spread
        ).remote()
        answer = actor.work.remote(config, index, attempt, self.server)
        self.running[answer] = Worker(index, attempt, actor, failures, first_cause)

    def _restart(self, worker: Worker, cause: str) -> None:
        ray.kill(worker.actor)
        pushed = self._ask(self.server.end.remote(worker.index))
        failures, first_cause = worker.failures + 1, worker.first_cause or cause
        if pushed == worker.attempt:  # it had been at work
            failures, first_cause = 1, cause
        name = f"worker {worker.index} on {self.config.env}"
        if failures > self.config.max_restarts:
            raise TrainingError(f"{name} failed {failures} times in a row; the first time: {first_cause}")
        self.restarts += 1
        self.messages.append(f"{name} is restarted, restart {self.restarts} of this run: {cause}")
        self._start(worker.index, attempt=worker.attempt + 1, failures=failures, first_cause=first_cause)

    def _end_stalled(self, silences: dict[int, float]) -> None:
        for worker in self.running.values():
            silent = silences.get(worker.index, 0.0)
            if silent > self.config.stall_seconds:
                self.messages.append(
                    f"worker {worker.index} on {self.config.env} has sent no gradient for {silent:.0f} s and is killed"
                )
                ray.kill(worker.actor)
                # So that it is not killed again before its end is noticed.
                self.server.end.remote(worker.index)

    @staticmethod
    def _ask(answer: Any) -> Any:
        """Waits for the parameter server's answer. Raises TrainingError if the server failed."""
        try:
            return ray.get(answer)
        except RayError as error:
            raise TrainingError(f"the parameter server failed: {_cause(error)}") from error

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for worker in self.running.values():
            ray.kill(worker.actor)
        ray.kill(self.server)
        self.connection.close()


def _root(error: BaseException) -> BaseException:
    """Returns the exception that was raised in an actor, or else Ray's own."""
    while isinstance(error, RayTaskError):
        error = error.cause
    return error


def _cause(error: RayError) -> str:
    """Says in one line what exception was raised in an actor, or how its process ended."""
    root = _root(error)
    if isinstance(root, RayError):
        return str(root).strip().splitlines()[-1].split(" Some common causes")[0]
    return f"{type(root).__name__}: {root}".splitlines()[0]
