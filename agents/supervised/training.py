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
from agents.stopping import ShouldStop, Stopped, never, raise_if
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
    losses: dict[str, Tensor]
    """Losses of steps: "task" since the last evaluation, "extra" since the last record."""

    def parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Returns what a checkpoint holds: tensors by group and name, and plain values."""
        state = {
            "seconds": self.seconds,
            "curve": self.curve,
            "metric": self.curve[-1][1] if self.curve else None,
        }
        tensors = {"parameters": self.parameters, "optimizer": self.optimizer, "losses": self.losses}
        return tensors, state

    @classmethod
    def from_parts(cls, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Self:
        """The inverse of `parts`. Raises KeyError if something is missing."""
        return cls(
            step=step,
            seconds=state["seconds"],
            curve=[(evaluated, metric) for evaluated, metric in state["curve"]],
            parameters=tensors["parameters"],
            optimizer=tensors["optimizer"],
            # Earlier versions had none, because they saved between two records.
            losses=tensors.get("losses", {"task": torch.empty(0), "extra": torch.empty(0)}),
        )


class SupervisedTraining:
    """One run: `advance` until `finished`."""

    is_save_point = True
    """Whether a checkpoint may be written now only because it is time for one. It can be at every step."""

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
        # Losses of the task since the last evaluation, and extra losses since the last record.
        self._losses: list[Tensor] = []
        self._extra_losses: list[Tensor] = []
        if snapshot is not None:
            self.step, self.seconds, self.curve = snapshot.step, snapshot.seconds, list(snapshot.curve)
            self.network.load_state_dict(snapshot.parameters)
            load_optimizer_state(self.optimizer, snapshot.optimizer)
            self._losses = list(snapshot.losses["task"].to(device))
            self._extra_losses = list(snapshot.losses["extra"].to(device))

    @property
    def finished(self) -> bool:
        return self._evaluated >= self.task.steps

    @property
    def _evaluated(self) -> int:
        """The step of the last evaluation."""
        return self.curve[-1][0] if self.curve else 0

    @property
    def larger_is_better(self) -> bool:
        return self.task.larger_is_better

    def advance(self, should_stop: ShouldStop = never) -> Record | None:
        """Trains up to the next record: an evaluation, the end, or RECORD_EVERY steps.

        Returns None if it has stopped before, after a step or amid an evaluation. The next call goes on there.

        Raises:
            TrainingError: a loss that is not a number, with its step.
        """
        every = self.task.evaluate_every
        evaluation = min((self._evaluated // every + 1) * every, self.task.steps)
        first = self.step - len(self._extra_losses)
        end = min(first + RECORD_EVERY, evaluation)
        started, inputs = time.perf_counter(), 0
        while self.step < end and not should_stop():
            loss, extra, count = self.train_step()
            self._losses.append(loss)
            self._extra_losses.append(extra)
            inputs += count
        self._check_finite(first)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        if self.step < end:
            return None
        scalars = {
            "losses/task": torch.stack(self._losses[first - end :]).mean().item(),
            "losses/extra": torch.stack(self._extra_losses).mean().item(),
            "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        # A run that has stopped amid an evaluation goes on without a step.
        if inputs:
            scalars["charts/samples_per_second"] = inputs / seconds
        if end == evaluation:
            try:
                scalars[f"charts/{self.task.metric}"] = self._evaluate(should_stop)
            except Stopped:
                return None
        self._extra_losses.clear()
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
        speed, steps = scalars.get("charts/samples_per_second"), self.task.steps
        latest = f"{self.curve[-1][1]:.5g}" if self.curve else "-"
        left = (steps - self.step) * self.config.batch_size / speed if speed else None
        return (
            f"{self.step:,} / {steps:,} steps  {speed or 0:,.0f} samples/s  loss {scalars['losses/task']:.4g}  "
            f"{self.task.metric} {latest}  ETA {clock(left)}"
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
        """Returns the state between two steps. A run that continues from it is bit by bit the same run."""
        return Snapshot(
            self.step,
            self.seconds,
            list(self.curve),
            self.network.state_dict(),
            optimizer_state(self.optimizer),
            {"task": _stacked(self._losses), "extra": _stacked(self._extra_losses)},
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

    def _check_finite(self, first: int) -> None:
        """Raises TrainingError if a loss of the steps after `first` is not a number."""
        losses = _stacked(self._losses[len(self._losses) - (self.step - first) :])
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise TrainingError(
                f"the loss became {losses[place].item()} at step {first + place + 1:,}; {LOWER_RATE}"
            )

    @torch.no_grad()
    def _evaluate(self, should_stop: ShouldStop) -> float:
        """Computes the metric. Raises Stopped before the next batch if the run should stop."""
        self.network.eval()
        hook = self.network.register_forward_pre_hook(lambda *_: raise_if(should_stop))
        try:
            metric = self.task.evaluate(self.network, torch.stack(self._losses))
        finally:
            hook.remove()
        self._losses.clear()
        self.curve.append((self.step, metric))
        return metric


def _stacked(losses: list[Tensor]) -> Tensor:
    """Returns scalars as one tensor, which may be empty."""
    return torch.stack(losses) if losses else torch.empty(0)


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
