"""The interface of a training run, in this process or on Ray. Writing curves and checkpoints is the caller's."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from torch import Tensor

from envs.atari import Episode


@dataclass(frozen=True)
class Snapshot:
    """All that a run needs to continue, between two updates."""

    env_steps: int
    updates: int
    episodes: int
    recent_returns: list[float]
    parameters: dict[str, Tensor]
    """By name, as in the network's state dict."""
    optimizer: dict[str, Tensor]
    """Statistics over the flat parameter vector, by name."""
    random_states: dict[str, Tensor]
    """State of each worker's action generator, by the worker's number, uint8."""
    precisions: dict[str, str] = field(default_factory=dict)
    """What workers compute in, fp32 or bf16, by kind of node."""
    attention: np.ndarray | None = None
    """The latest mean attention over slots, (3, H, P), for a picture; not needed to continue."""

    @property
    def mean_return(self) -> float | None:
        """Over the last 20 games; None before the first has ended."""
        return float(np.mean(self.recent_returns)) if self.recent_returns else None

    def parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """What a checkpoint holds: tensors by group and name, and plain values."""
        tensors = {
            "parameters": self.parameters,
            "optimizer": self.optimizer,
            "random_states": self.random_states,
        }
        state = {
            "env_steps": self.env_steps,
            "updates": self.updates,
            "episodes": self.episodes,
            "recent_returns": self.recent_returns,
            "mean_return": self.mean_return,
            "precisions": self.precisions,
        }
        return tensors, state

    @classmethod
    def from_parts(cls, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Self:
        """The inverse of `parts`. Raises KeyError if something is missing."""
        return cls(
            env_steps=step,
            updates=state["updates"],
            episodes=state["episodes"],
            recent_returns=state["recent_returns"],
            parameters=tensors["parameters"],
            optimizer=tensors["optimizer"],
            random_states=tensors["random_states"],
            precisions=state.get("precisions", {}),
        )

    def map(self, function: Callable[[Any], Any]) -> "Snapshot":
        """Applies `function` to every tensor of the parameters and the optimiser."""
        return replace(
            self,
            parameters={name: function(tensor) for name, tensor in self.parameters.items()},
            optimizer={name: function(tensor) for name, tensor in self.optimizer.items()},
        )


@dataclass
class Metrics:
    """What happened since the last look."""

    env_steps: int
    updates: int
    learning_rate: float
    entropy_weight: float
    mean_return: float | None
    scalars: dict[str, float] = field(default_factory=dict)
    """Means over the updates since the last look, by TensorBoard tag (docs/curves.md). Empty if there was no update."""
    precisions: dict[str, str] = field(default_factory=dict)
    """What workers compute in, fp32 or bf16, by kind of node."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What a worker spent on an update, means since the last look: exchange, play, gradient."""
    staleness: float | None = None
    """Mean number of versions that a gradient's weights were behind when it came."""
    episodes: list[tuple[int, Episode]] = field(default_factory=list)
    """With the step count at which each was reported."""
    attention: np.ndarray | None = None
    """The latest mean attention over slots, (3, H, P)."""
    workers: int = 1
    """At work now."""
    faults: dict[str, int] = field(default_factory=dict)
    """Counts since the start of this process: pushes refused as duplicate, late or not_finite, restarts of workers, and
    steps_lost, the steps whose gradients were never applied, or at most that many."""
    messages: list[str] = field(default_factory=list)
    """What went wrong since the last look, a line each."""


class Training(ABC):
    on_ray = True
    """Whether it runs on a Ray cluster, which this process is connected to."""

    @property
    @abstractmethod
    def finished(self) -> bool: ...

    @abstractmethod
    def advance(self) -> None:
        """Goes on with training for one update, or for about a second where updates are applied elsewhere.

        Raises TrainingError if it cannot go on."""

    @abstractmethod
    def drain(self) -> Metrics:
        """What happened since the last call."""

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """The state between two updates."""

    @abstractmethod
    def close(self) -> None:
        """Frees games and actors. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
