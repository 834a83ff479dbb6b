"""Training on one task after another, some seeds of one configuration together.

Shapes: S seeds, n parameters, B images a step, d features, T tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vmap

from agents.continual.config import ContinualConfig
from agents.continual.fisher import diagonal_fisher
from agents.continual.network import build_network, flatten, unflatten
from agents.continual.regularizers import REGULARIZERS, Regularizer
from agents.continual.tasks import Split, Task, TaskStream, shuffled
from agents.errors import TrainingError
from agents.freed_memory import keep_freed_memory
from agents.optimizer_state import load_optimizer_state, optimizer_state

CHECK_EVERY = 50  # steps between two looks at the losses, which wait for the device


@dataclass(frozen=True)
class Snapshot:
    """All that a run needs to go on with its next task."""

    task: int
    """Tasks done."""
    theta: Tensor  # (S, n)
    optimizer: dict[str, Tensor]
    regularizer: dict[str, Tensor]
    accuracy: Tensor  # (S, T, T), R[t, i] of the tasks done
    untrained: Tensor  # (S, T), accuracies before the first task


class ContinualTraining:
    """`train_task` until `finished`."""

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
        method = config.method.replace("-", "_")
        self.regularizer: Regularizer = REGULARIZERS[method if method in REGULARIZERS else "none"](
            config.strength
        )
        tasks = len(stream.tasks)
        if snapshot is None:
            self.task = 0
            self.accuracy = torch.zeros(len(rows), tasks, tasks, dtype=torch.float64)
            self.untrained = self._evaluate()
        else:
            self.task, self.accuracy, self.untrained = snapshot.task, snapshot.accuracy, snapshot.untrained
            self.theta.data.copy_(snapshot.theta)
            load_optimizer_state(self.optimizer, snapshot.optimizer)
            self.regularizer.load_state_dict({k: v.to(device) for k, v in snapshot.regularizer.items()})

    @property
    def finished(self) -> bool:
        return self.task == len(self.stream.tasks)

    def train_task(self, tell: Callable[[int, float], None] = lambda step, loss: None) -> None:
        """Learns the next task, then evaluates on all of them.

        Args:
            tell: called now and then with the task's step and the mean loss since the last call.

        Raises:
            TrainingError: a loss that is not a number, with its seed, task and step.
        """
        config, number = self.config, self.task
        task = self.stream.tasks[number]
        if config.reset_optimizer:
            self.optimizer = build_optimizer(config, self.theta)
        step, losses = 0, []
        for epoch in range(config.epochs):
            order = torch.stack(
                [shuffled(len(task.train.x), seed=seed, task=number, epoch=epoch) for seed in config.seeds]
            ).to(self.device)  # (S, N)
            for chosen in order.split(config.batch_size, dim=1):
                losses.append(self._step(task, Split(task.train.x[chosen], task.train.labels[chosen])))
                step += 1
                if len(losses) == CHECK_EVERY:
                    tell(step, self._check_finite(losses, step))
                    losses = []
        if losses:
            tell(step, self._check_finite(losses, step))
        fisher = self._fisher(task) if self.regularizer.uses_fisher else None
        self.regularizer.end_task(self.theta.detach(), fisher)
        self.accuracy[:, number] = self._evaluate()
        self.task += 1

    def snapshot(self) -> Snapshot:
        """The state between two tasks."""
        return Snapshot(
            self.task,
            self.theta.detach(),
            optimizer_state(self.optimizer),
            self.regularizer.state_dict(),
            self.accuracy,
            self.untrained,
        )

    def _step(self, task: Task, batch: Split) -> Tensor:
        """One step of the optimiser on x (S, B, d): the task's losses (S,)."""
        losses, extra = self._losses(task, batch)
        counted = 2 if self._as_released and self.task > 0 else 1
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
        """Cross-entropies and extra losses of the seeds, (S,) each."""

        def of_seed(theta: Tensor, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits, extra = functional_call(self.network, unflatten(self.network, theta), (x, task.head))
            return F.cross_entropy(logits[:, : task.answers], labels), extra

        if len(self.theta) == 1:  # without the cost of vmap
            loss, extra = of_seed(self.theta.squeeze(0), batch.x[0], batch.labels[0])
            return loss.unsqueeze(0), extra.unsqueeze(0)
        return vmap(of_seed)(self.theta, batch.x, batch.labels)

    def _fisher(self, task: Task) -> Tensor:
        """Diagonal Fisher information of the task just learnt, (S, n)."""
        rows = []
        for theta in self.theta.detach():
            self._load(theta)
            squares = diagonal_fisher(
                self.network,
                task.train.x,
                logits=lambda x: self.network.logits(x, task.head)[:, : task.answers],
            )
            rows.append(torch.cat([square.flatten() for square in squares.values()]))
            if self._as_released:  # the mean of (g + o)^2 over samples, o their common orthogonality gradient
                mean, common = self._gradients(theta, task)
                rows[-1] += 2 * common * mean + common.square()
        return torch.stack(rows)

    def _gradients(self, theta: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """Of -log p(likeliest label), mean over the task's samples, and of the extra loss: (n,) each."""
        theta = theta.clone().requires_grad_()
        parameters, mean = unflatten(self.network, theta), torch.zeros_like(theta)
        extra = theta.new_zeros(())
        for x in task.train.x.split(2048):
            logits, extra = functional_call(self.network, parameters, (x, task.head))
            logits = logits[:, : task.answers]
            loss = F.cross_entropy(logits, logits.argmax(-1), reduction="sum") / len(task.train.x)
            mean += torch.autograd.grad(loss, theta, retain_graph=True)[0]
        return mean, torch.autograd.grad(extra, theta)[0]

    @property
    def _as_released(self) -> bool:
        """Whether the orthogonality loss goes where the authors' agents with a quadratic penalty have it: a second time into the
        loss from the second task on, and into the Fisher. Only so are their logs of EWC met. (Their SI has it in the importances but
        not in the first task's loss, and diverges: that is not followed.)"""
        config = self.config
        released = config.layer == "neurocoder" and config.neurocoder.variant == "release"
        return released and config.method in ("l2", "ewc", "online-ewc")

    @torch.no_grad()
    def _evaluate(self) -> Tensor:
        """Accuracies on the tests of all tasks, (S, T) in percent, each by its own head."""
        rows = []
        for theta in self.theta:
            self._load(theta)
            right = [
                (
                    self.network.logits(task.test.x, task.head)[:, : self._answers(task)].argmax(-1)
                    == task.test.labels
                )
                for task in self.stream.tasks
            ]
            rows.append(torch.stack([of_task.double().mean() for of_task in right]))
        return 100 * torch.stack(rows).cpu()

    def _answers(self, task: Task) -> int:
        """Incremental classes compete with all that are seen by now, also in the tests of earlier tasks."""
        return max(task.answers, self.stream.tasks[min(self.task, len(self.stream.tasks) - 1)].answers)

    def _load(self, theta: Tensor) -> None:
        torch.nn.utils.vector_to_parameters(theta.detach(), self.network.parameters())

    def _check_finite(self, losses: list[Tensor], step: int) -> float:
        """The mean of losses (S,) of steps up to `step`."""
        stacked = torch.stack(losses)  # (steps, S)
        wrong = (~stacked.isfinite()).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise TrainingError(
                f"the loss of seed {self.config.seeds[column]} became {stacked[row, column].item()} "
                f"in task {self.task + 1} at step {step - len(losses) + row + 1}"
            )
        return stacked.mean().item()


def build_optimizer(config: ContinualConfig, theta: Tensor) -> torch.optim.Optimizer:
    """Elementwise optimisers, so rows of theta (S, n) do not see each other."""
    match config.method:
        case "sgd":
            return torch.optim.SGD([theta], config.learning_rate)
        case "adagrad":
            return torch.optim.Adagrad([theta], config.learning_rate, fused=True)
        case _:
            return torch.optim.Adam([theta], config.learning_rate, fused=True)
