"""The training loop of one model on one device. The caller writes curves and checkpoints."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from agents.durations import clock
from agents.errors import LOWER_RATE, TrainingError
from agents.freed_memory import keep_freed_memory
from agents.optimizer_state import load_optimizer_state, optimizer_state
from agents.records import Record
from agents.seeding import mixed_seed
from agents.supervised.config import SupervisedConfig
from agents.supervised.cuda_graphs import Differentiate, GraphedGradients, can_be_graphed
from agents.supervised.network import build_network
from agents.supervised.tasks import Task, build_task
from neurocoder import auxiliary_loss
from neurocoder.output_layers import parameter_count

# Steps, at most, between two records.
RECORD_EVERY = 100


@dataclass(frozen=True)
class Snapshot:
    """All that a run needs to continue. Data and noise depend on seed and step alone."""

    step: int
    seconds: float
    """Time spent on training, without evaluation."""
    curve: list[tuple[int, float]]
    """(step, metric) of every evaluation."""
    parameters: dict[str, Tensor]
    """The network's parameters and buffers."""
    optimizer: dict[str, Tensor]

    def parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Returns what a checkpoint holds: tensors by group and name, and plain values."""
        state = {
            "seconds": self.seconds,
            "curve": self.curve,
            "metric": self.curve[-1][1] if self.curve else None,
        }
        return {"parameters": self.parameters, "optimizer": self.optimizer}, state

    @classmethod
    def from_parts(cls, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Self:
        """The inverse of `parts`. Raises KeyError if something is missing."""
        return cls(
            step=step,
            seconds=state["seconds"],
            curve=[(evaluated, metric) for evaluated, metric in state["curve"]],
            parameters=tensors["parameters"],
            optimizer=tensors["optimizer"],
        )


class SupervisedTraining:
    """One run: `advance` until `finished`."""

    # Between any two records.
    can_be_saved = True

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
        # Losses of the task since the last evaluation.
        self._losses: list[Tensor] = []
        if snapshot is not None:
            self.step, self.seconds, self.curve = snapshot.step, snapshot.seconds, list(snapshot.curve)
            self.network.load_state_dict(snapshot.parameters)
            load_optimizer_state(self.optimizer, snapshot.optimizer)

    @property
    def finished(self) -> bool:
        return self.step >= self.task.steps

    @property
    def larger_is_better(self) -> bool:
        return self.task.larger_is_better

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
        scalars = {f"losses/{name}": values.mean().item() for name, values in losses.items()}
        scalars["charts/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        scalars["charts/samples_per_second"] = inputs / seconds
        if end == evaluation:
            scalars[f"charts/{self.task.metric}"] = self._evaluate()
        return Record(end, scalars, self._progress(scalars))

    def train_step(self) -> tuple[Tensor, Tensor, int]:
        """Takes one step of the optimiser.

        Returns the loss of the task, the extra losses of the layers, and the number of inputs.
        """
        self.network.train()
        self._set_learning_rate()
        # So the layers' noise, too, depends on seed and step alone. `torch.manual_seed` would take 0.3 ms.
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

    def _progress(self, scalars: dict[str, float]) -> str:
        """Describes where the run is, in one line."""
        speed, steps = scalars["charts/samples_per_second"], self.task.steps
        latest = f"{self.curve[-1][1]:.5g}" if self.curve else "-"
        return (
            f"{self.step:,} / {steps:,} steps  {speed:,.0f} samples/s  loss {scalars['losses/task']:.4g}  "
            f"{self.task.metric} {latest}  ETA {clock((steps - self.step) * self.config.batch_size / speed)}"
        )

    def _differentiate(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the loss of the task, the extra losses of the layers, and the gradients of their sum."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            outputs = self.network(x)
        loss = self.task.loss(outputs.float(), targets)
        extra = auxiliary_loss(self.network)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + extra).backward()
        return loss.detach(), extra.detach()

    def snapshot(self) -> Snapshot:
        """Returns the state between two steps.

        A run that continues from the snapshot takes the same steps. Its first training loss may cover fewer.
        """
        return Snapshot(
            self.step,
            self.seconds,
            list(self.curve),
            self.network.state_dict(),
            optimizer_state(self.optimizer),
        )

    def result(self) -> dict[str, Any]:
        """Returns what a finished run came to, plain values."""
        final = self.curve[-1][1]
        best_step, best_value = best(self.curve, larger_is_better=self.larger_is_better) or (None, None)
        scalars = {"final": final, "best": best_value, "best_step": best_step}
        return {
            "seed": self.config.seed,
            "metric": self.task.metric,
            "larger_is_better": self.larger_is_better,
            **scalars,
            "parameters": self.parameters,
            "steps": self.step,
            "scalars": scalars | {"steps_per_second": self.step / self.seconds},
            "curve": self.curve,
        }

    def _set_learning_rate(self) -> None:
        shares = (0.5, 0.75) if self.config.step_decay else ()
        drops = sum(self.step >= share * self.task.steps for share in shares)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate / 10**drops

    def _check_finite(self, first: int, losses: Tensor) -> None:
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise TrainingError(
                f"the loss became {losses[place].item()} at step {first + place + 1:,}; {LOWER_RATE}"
            )

    @torch.no_grad()
    def _evaluate(self) -> float:
        self.network.eval()
        metric = self.task.evaluate(self.network, torch.cat(self._losses))
        self._losses.clear()
        self.curve.append((self.step, metric))
        return metric


def build_optimizer(config: SupervisedConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Makes the optimiser of a run."""
    parameters, rate, decay = network.parameters(), config.learning_rate, config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)
        case "sgd":
            momentum = config.momentum
            # Fused SGD fails where only some parameters have momentum. An expert has it once it was chosen.
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
    """Finds the evaluation with the best metric, the first of equals. None if no metric is a number."""
    numbers = [point for point in curve if not math.isnan(point[1])]
    if not numbers:
        return None
    return (max if larger_is_better else min)(numbers, key=lambda point: point[1])
