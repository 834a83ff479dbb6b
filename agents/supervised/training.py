"""The training loop of one model on one device. Writing curves and checkpoints is the caller's."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from agents.errors import TrainingError
from agents.freed_memory import keep_freed_memory
from agents.optimizer_state import load_optimizer_state, optimizer_state
from agents.seeding import mixed_seed
from agents.supervised.config import SupervisedConfig
from agents.supervised.cuda_graphs import Differentiate, GraphedGradients, can_be_graphed
from agents.supervised.network import build_network
from agents.supervised.tasks import Task, build_task
from neurocoder import auxiliary_loss
from neurocoder.output_layers import parameter_count

RECORD_EVERY = 100  # steps, at most, between two records


@dataclass(frozen=True)
class Record:
    """What happened in the steps up to `step`."""

    step: int
    losses: dict[str, float]
    """Means over these steps: the task's loss, and the layers' extra losses."""
    metric: float | None
    """The task's metric, where it was evaluated."""
    learning_rate: float
    samples_per_second: float


@dataclass(frozen=True)
class Snapshot:
    """All that a run needs to go on. Data and noise depend on seed and step alone."""

    step: int
    seconds: float
    """Of training, without evaluation."""
    curve: list[tuple[int, float]]
    """(step, metric) of every evaluation."""
    parameters: dict[str, Tensor]
    """Of the network, with its buffers."""
    optimizer: dict[str, Tensor]


class SupervisedTraining:
    """One run: `advance` until `finished`."""

    def __init__(
        self, config: SupervisedConfig, data: Path, device: torch.device, snapshot: Snapshot | None = None
    ):
        """Starts a run, or continues from `snapshot`.

        Raises:
            ValueError: data that are missing or damaged, in one line.
        """
        keep_freed_memory()
        self.config, self.device = config, device
        torch.manual_seed(config.seed)
        self.network = build_network(config).to(device)
        graphed = can_be_graphed(self.network, device)
        self.task: Task = build_task(config, data, device, few_shapes=graphed)
        self.differentiate: Differentiate = self._differentiate
        if graphed:
            self.differentiate = GraphedGradients(self.network, self._differentiate)
        self.parameters = parameter_count(self.network)
        self.optimizer = build_optimizer(config, self.network)
        self.step, self.seconds = 0, 0.0
        self.curve: list[tuple[int, float]] = []
        self._losses: list[Tensor] = []  # of the task, since the last evaluation
        if snapshot is not None:
            self.step, self.seconds, self.curve = snapshot.step, snapshot.seconds, list(snapshot.curve)
            self.network.load_state_dict(snapshot.parameters)
            load_optimizer_state(self.optimizer, snapshot.optimizer)

    @property
    def finished(self) -> bool:
        return self.step >= self.task.steps

    def advance(self) -> Record:
        """Trains up to the next record: an evaluation, the end, or RECORD_EVERY steps.

        Raises:
            TrainingError: a loss that is not a number, with its step.
        """
        every = self.task.evaluate_every
        evaluation = min((self.step // every + 1) * every, self.task.steps)
        end = min(self.step + RECORD_EVERY, evaluation)
        started, first = time.perf_counter(), self.step
        task_losses, extra_losses, inputs = [], [], 0
        while self.step < end:
            loss, extra, count = self.train_step()
            task_losses.append(loss)
            extra_losses.append(extra)
            inputs += count
        losses = {"task": torch.stack(task_losses), "extra": torch.stack(extra_losses)}
        self._check_finite(first, losses["task"])
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self._losses.append(losses["task"])
        return Record(
            step=end,
            losses={name: of_steps.mean().item() for name, of_steps in losses.items()},
            metric=self._evaluate() if end == evaluation else None,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            samples_per_second=inputs / seconds,
        )

    def train_step(self) -> tuple[Tensor, Tensor, int]:
        """One step of the optimiser: the task's loss, the layers' extra losses, and how many inputs they are of."""
        self.network.train()
        self._set_learning_rate()
        # So the layers' noise, too, depends on seed and step alone. (`torch.manual_seed` asks every kind of device: 0.3 ms.)
        seed = mixed_seed("noise", self.config.seed, self.step)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        x, targets = self.task.batch(self.step)
        loss, extra = self.differentiate(x, targets)
        if self.config.gradient_value_clip is not None:
            nn.utils.clip_grad_value_(self.network.parameters(), self.config.gradient_value_clip)
        self.optimizer.step()
        self.step += 1
        return loss, extra, len(x)

    def _differentiate(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The task's loss and the layers' extra losses, and the gradients of their sum."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            outputs = self.network(x)
        loss = self.task.loss(outputs.float(), targets)
        extra = auxiliary_loss(self.network)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + extra).backward()
        return loss.detach(), extra.detach()

    def snapshot(self) -> Snapshot:
        """The state between two steps. A run that goes on from it takes the same steps; its first record of a
        training loss may cover fewer."""
        return Snapshot(
            self.step,
            self.seconds,
            list(self.curve),
            self.network.state_dict(),
            optimizer_state(self.optimizer),
        )

    def _set_learning_rate(self) -> None:
        shares = (0.5, 0.75) if self.config.step_decay else ()
        drops = sum(self.step >= share * self.task.steps for share in shares)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate / 10**drops

    def _check_finite(self, first: int, losses: Tensor) -> None:
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise TrainingError(f"the loss became {losses[place].item()} at step {first + place + 1:,}")

    @torch.no_grad()
    def _evaluate(self) -> float:
        self.network.eval()
        metric = self.task.evaluate(self.network, torch.cat(self._losses))
        self._losses.clear()
        self.curve.append((self.step, metric))
        return metric


def build_optimizer(config: SupervisedConfig, network: nn.Module) -> torch.optim.Optimizer:
    parameters, rate, decay = network.parameters(), config.learning_rate, config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)
        case "sgd":
            momentum = config.momentum
            # Fused, SGD fails where only some parameters have momentum: an expert's begins when it is first chosen.
            fused = True if momentum == 0 else None
            return torch.optim.SGD(
                parameters, rate, momentum, weight_decay=decay, nesterov=momentum > 0, fused=fused
            )
        case _:
            # The NSM repository's decay of the statistics.
            return torch.optim.RMSprop(
                parameters, rate, alpha=0.95, weight_decay=decay, momentum=config.momentum
            )


def best(curve: list[tuple[int, float]], *, larger_is_better: bool) -> tuple[int, float] | None:
    """The evaluation with the best metric, the first of equals."""
    numbers = [point for point in curve if not math.isnan(point[1])]
    if not numbers:
        return None
    return (max if larger_is_better else min)(numbers, key=lambda point: point[1])
