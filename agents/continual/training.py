"""Training on one task after another, some seeds of one configuration together.

Shapes: S seeds, n parameters, B images a step, d features, T tasks.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vmap

from agents.continual.config import ContinualConfig
from agents.continual.fisher import diagonal_fisher
from agents.continual.metrics import accuracy_on_seen_tasks, all_metrics
from agents.continual.network import build_network, flatten, unflatten
from agents.continual.regularizers import REGULARIZERS, Regularizer
from agents.continual.tasks import Split, Task, TaskStream, shuffled
from agents.errors import LOWER_RATE, TrainingError
from agents.freed_memory import keep_freed_memory
from agents.optimizer_state import load_optimizer_state, optimizer_state
from agents.records import Record
from agents.stopping import ShouldStop, Stopped, never, raise_if
from neurocoder.output_layers import parameter_count

# Steps between two records. A record reads the losses, which waits for the device.
RECORD_EVERY = 50


@dataclass(frozen=True)
class Snapshot:
    """All that a run needs to continue, between two tasks or within one."""

    tasks_done: int
    task_step: int
    """Steps taken of the task in progress."""
    seconds: float
    """Time spent on training and evaluation."""
    theta: Tensor  # (S, n)
    optimizer: dict[str, Tensor]
    regularizer: dict[str, Tensor]
    accuracy: Tensor  # (S, T, T), R[t, i] of the tasks done
    untrained: Tensor  # (S, T), accuracies before the first task
    losses: Tensor  # (steps since the last record, S)

    @property
    def step(self) -> int:
        """The step of the checkpoint, which counts tasks."""
        return self.tasks_done

    def parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Returns what a checkpoint holds: tensors by group and name, and plain values."""
        tensors = {
            "parameters": {"theta": self.theta},
            "optimizer": self.optimizer,
            "regularizer": self.regularizer,
            "accuracy": {"accuracy": self.accuracy, "untrained": self.untrained},
            "losses": {"losses": self.losses},
        }
        return tensors, {"seconds": self.seconds, "task_step": self.task_step}

    @classmethod
    def from_parts(cls, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Self:
        """The inverse of `parts`. Raises KeyError if something is missing."""
        return cls(
            tasks_done=step,
            # Earlier versions saved between two tasks only.
            task_step=state.get("task_step", 0),
            seconds=state["seconds"],
            theta=tensors["parameters"]["theta"],
            optimizer=tensors["optimizer"],
            regularizer=tensors["regularizer"],
            accuracy=tensors["accuracy"]["accuracy"],
            untrained=tensors["accuracy"]["untrained"],
            losses=tensors["losses"]["losses"] if "losses" in tensors else torch.empty(0),
        )


class ContinualTraining:
    """One run: `advance` until `finished`."""

    metric = "average accuracy"
    larger_is_better = True

    def __init__(
        self,
        config: ContinualConfig,
        stream: TaskStream,
        device: torch.device,
        snapshot: Snapshot | None = None,
    ):
        keep_freed_memory()
        self.config, self.stream, self.device = config, stream, device
        features = stream.tasks[0].train.x.shape[1]
        rows = []
        for seed in config.seeds:
            torch.manual_seed(seed)
            self.network = build_network(config, features, stream.classes, stream.heads).to(device)
            rows.append(flatten(self.network))
        self.theta = torch.stack(rows).requires_grad_()  # (S, n)
        self.optimizer = build_optimizer(config, self.theta)
        self.regularizer = REGULARIZERS.get(config.method, Regularizer)(config.strength)
        self.tasks_done, self.seconds = 0, 0.0
        # Steps of the task in progress, its batches that are left, and the losses (S,) since the last record.
        self.task_step = 0
        self._batches: Iterator[Split] | None = None
        self._new_losses: list[Tensor] = []
        tasks = len(stream.tasks)
        if snapshot is None:
            self.accuracy = torch.zeros(len(rows), tasks, tasks, dtype=torch.float64)
            self.untrained = self._evaluate(never)
        else:
            self.tasks_done, self.task_step = snapshot.tasks_done, snapshot.task_step
            self.seconds, self._new_losses = snapshot.seconds, list(snapshot.losses.to(device))
            self.accuracy, self.untrained = snapshot.accuracy, snapshot.untrained
            self.theta.data.copy_(snapshot.theta)
            load_optimizer_state(self.optimizer, snapshot.optimizer)
            self.regularizer.load_state_dict({k: v.to(device) for k, v in snapshot.regularizer.items()})

    @property
    def finished(self) -> bool:
        return self.tasks_done == len(self.stream.tasks)

    @property
    def is_save_point(self) -> bool:
        """Whether a checkpoint may be written now only because it is time for one. It is between two tasks."""
        return self.task_step == 0

    @property
    def step(self) -> int:
        """Optimiser steps since the start of the run."""
        return sum(map(self._steps, self.stream.tasks[: self.tasks_done])) + self.task_step

    def advance(self, should_stop: ShouldStop = never) -> Record | None:
        """Trains up to the next record: RECORD_EVERY steps, or the end of the task, which is then evaluated.

        Returns None if it has stopped before, after a step or amid an evaluation. The next call goes on there.

        Raises:
            TrainingError: a loss that is not a number, with its seed, task and step.
        """
        started = time.perf_counter()
        task = self.stream.tasks[self.tasks_done]
        if self._batches is None:
            if self.config.reset_optimizer and self.task_step == 0:
                self.optimizer = build_optimizer(self.config, self.theta)
            self._batches = itertools.islice(self._draw_batches(task), self.task_step, None)
        steps, tasks = self._steps(task), len(self.stream.tasks)
        end = min(self.task_step - len(self._new_losses) + RECORD_EVERY, steps)
        try:
            while self.task_step < end:
                raise_if(should_stop)
                self._new_losses.append(self._step(task, next(self._batches)))
                self.task_step += 1
            loss = self._check_finite()
            scalars = {"losses/task": loss}
            progress = (
                f"task {self.tasks_done + 1} of {tasks}  step {self.task_step:,} / {steps:,}  loss {loss:.4g}"
            )
            if self.task_step == steps:
                scalars |= self._end_task(task, should_stop)
        except Stopped:
            self._check_finite()
            return None
        finally:
            self.seconds += time.perf_counter() - started
        self._new_losses.clear()
        return Record(self.step, scalars, progress)

    def snapshot(self) -> Snapshot:
        """Returns the state between two steps. A run that continues from it is bit by bit the same run."""
        return Snapshot(
            self.tasks_done,
            self.task_step,
            self.seconds,
            self.theta.detach(),
            optimizer_state(self.optimizer),
            self.regularizer.state_dict(),
            self.accuracy,
            self.untrained,
            torch.stack(self._new_losses) if self._new_losses else torch.empty(0),
        )

    def result(self) -> dict[str, Any]:
        """Returns what a finished run came to, plain values. Accuracies R[t][i] of every seed are in percent."""
        scalars = all_metrics(self.accuracy, self.untrained)
        curve = accuracy_on_seen_tasks(self.accuracy).mean(dim=0)
        return {
            "seeds": list(self.config.seeds),
            "metric": self.metric,
            "larger_is_better": self.larger_is_better,
            "accuracy": self.accuracy.tolist(),
            "untrained": self.untrained.tolist(),
            "features": self.stream.features,
            "parameters": parameter_count(self.network),
            "steps": self.step,
            "scalars": {name: values.mean().item() for name, values in scalars.items()},
            "curve": list(enumerate(curve.tolist(), start=1)),
        }

    def _steps(self, task: Task) -> int:
        """Counts the optimiser steps of a task."""
        return self.config.epochs * -(-len(task.train.x) // self.config.batch_size)

    def _draw_batches(self, task: Task) -> Iterator[Split]:
        """Draws the batches of a task, x (S, B, d), in an order that depends on seed, task and epoch alone."""
        config, train = self.config, task.train
        for epoch in range(config.epochs):
            orders = [
                shuffled(len(train.x), seed=seed, task=self.tasks_done, epoch=epoch) for seed in config.seeds
            ]
            for chosen in torch.stack(orders).to(self.device).split(config.batch_size, dim=1):  # (S, B)
                yield Split(train.x[chosen], train.labels[chosen])

    def _end_task(self, task: Task, should_stop: ShouldStop) -> dict[str, float]:
        """Evaluates, and fixes the penalty for the tasks to come. Returns values for the curves, by tag.

        Raises Stopped before the next batch if the run should stop. Then nothing has changed.
        """
        fisher = self._fisher(task, should_stop) if self.regularizer.uses_fisher else None
        self.accuracy[:, self.tasks_done] = self._evaluate(should_stop)
        self.regularizer.end_task(self.theta.detach(), fisher)
        self.tasks_done, self.task_step, self._batches = self.tasks_done + 1, 0, None
        # (S, tasks seen) -> (tasks seen,)
        seen = self.accuracy[:, self.tasks_done - 1, : self.tasks_done].mean(dim=0)
        by_task = {f"accuracy/task_{i}": accuracy for i, accuracy in enumerate(seen.tolist(), start=1)}
        return {"charts/average_accuracy": seen.mean().item()} | by_task

    def _step(self, task: Task, batch: Split) -> Tensor:
        """Takes one step of the optimiser on x (S, B, d). Returns the task's losses (S,)."""
        losses, extra = self._losses(task, batch)
        counted = 2 if self._as_released and self.tasks_done > 0 else 1
        rest = counted * extra.sum()
        if self.regularizer.uses_task_gradient:
            (gradient,) = torch.autograd.grad(losses.sum(), self.theta, retain_graph=True)
            self.regularizer.before_step(self.theta, gradient)
            if rest.requires_grad:
                gradient += torch.autograd.grad(rest, self.theta)[0]
        else:
            (gradient,) = torch.autograd.grad(losses.sum() + rest, self.theta)
        self.regularizer.add_penalty_gradient(self.theta.detach(), gradient)
        self.theta.grad = gradient
        self.optimizer.step()
        self.regularizer.after_step(self.theta)
        return losses.detach()

    def _losses(self, task: Task, batch: Split) -> tuple[Tensor, Tensor]:
        """Computes cross-entropies and extra losses of the seeds, (S,) each."""

        def seed_losses(theta: Tensor, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits, extra = functional_call(self.network, unflatten(self.network, theta), (x, task.head))
            return F.cross_entropy(logits[:, : task.answers], labels), extra

        # One seed alone does without the cost of vmap.
        if len(self.theta) == 1:
            loss, extra = seed_losses(self.theta.squeeze(0), batch.x[0], batch.labels[0])
            return loss.unsqueeze(0), extra.unsqueeze(0)
        return vmap(seed_losses)(self.theta, batch.x, batch.labels)

    def _fisher(self, task: Task, should_stop: ShouldStop) -> Tensor:
        """Computes the diagonal Fisher information of the task just learnt, (S, n). Raises Stopped."""

        def logits(x: Tensor) -> Tensor:
            raise_if(should_stop)
            return self.network.logits(x, task.head)[:, : task.answers]

        rows = []
        for theta in self.theta.detach():
            self._load(theta)
            squares = diagonal_fisher(self.network, task.train.x, logits=logits)
            rows.append(torch.cat([square.flatten() for square in squares.values()]))
            # The mean of (g + o)^2 over samples. o is their common orthogonality gradient.
            if self._as_released:
                mean, common = self._gradients(theta, task, should_stop)
                rows[-1] += 2 * common * mean + common.square()
        return torch.stack(rows)

    def _gradients(self, theta: Tensor, task: Task, should_stop: ShouldStop) -> tuple[Tensor, Tensor]:
        """Computes two gradients (n,): of -log p(likeliest label), mean over the samples, and of the extra loss.

        Raises Stopped.
        """
        theta = theta.clone().requires_grad_()
        parameters, mean = unflatten(self.network, theta), torch.zeros_like(theta)
        extra = theta.new_zeros(())
        for x in task.train.x.split(2048):
            raise_if(should_stop)
            logits, extra = functional_call(self.network, parameters, (x, task.head))
            logits = logits[:, : task.answers]
            loss = F.cross_entropy(logits, logits.argmax(-1), reduction="sum") / len(task.train.x)
            mean += torch.autograd.grad(loss, theta, retain_graph=True)[0]
        return mean, torch.autograd.grad(extra, theta)[0]

    @property
    def _as_released(self) -> bool:
        """Whether the orthogonality loss is used as in the authors' agents with a quadratic penalty.

        There it is added to the loss a second time from the second task on, and it is part of the Fisher. Their logs
        of EWC can be reproduced only so. Their SI has it in the importances but not in the first task's loss, and
        diverges: that is not followed.
        """
        config = self.config
        released = config.layer == "neurocoder" and config.neurocoder.variant == "release"
        return released and config.method in ("l2", "ewc", "online-ewc")

    @torch.no_grad()
    def _evaluate(self, should_stop: ShouldStop) -> Tensor:
        """Computes accuracies on the tests of all tasks, (S, T) in percent, each by its own head. Raises Stopped."""
        rows = []
        for theta in self.theta:
            self._load(theta)
            shares = []
            for task in self.stream.tasks:
                raise_if(should_stop)
                logits = self.network.logits(task.test.x, task.head)[:, : self._answers(task)]
                shares.append((logits.argmax(-1) == task.test.labels).double().mean())
            rows.append(torch.stack(shares))
        return 100 * torch.stack(rows).cpu()

    def _answers(self, task: Task) -> int:
        """Counts the classes that compete: all that are seen by now, in the tests of earlier tasks as well."""
        return max(task.answers, self.stream.tasks[min(self.tasks_done, len(self.stream.tasks) - 1)].answers)

    def _load(self, theta: Tensor) -> None:
        torch.nn.utils.vector_to_parameters(theta.detach(), self.network.parameters())

    def _check_finite(self) -> float:
        """Returns the mean loss since the last record, 0 without a step. Raises TrainingError if it is not a number."""
        if not self._new_losses:
            return 0.0
        stacked = torch.stack(self._new_losses)  # (steps, S)
        wrong = (~stacked.isfinite()).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise TrainingError(
                f"the loss of seed {self.config.seeds[column]} became {stacked[row, column].item()} "
                f"in task {self.tasks_done + 1} at step {self.task_step - len(self._new_losses) + row + 1}; {LOWER_RATE}"
            )
        return stacked.mean().item()


def build_optimizer(config: ContinualConfig, theta: Tensor) -> torch.optim.Optimizer:
    """Makes the optimiser of the method. It works elementwise, so rows of theta (S, n) do not affect each other."""
    match config.method:
        case "sgd":
            return torch.optim.SGD([theta], config.learning_rate)
        case "adagrad":
            return torch.optim.Adagrad([theta], config.learning_rate, fused=True)
        case _:
            return torch.optim.Adam([theta], config.learning_rate, fused=True)
