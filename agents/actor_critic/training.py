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
    """All that a run needs to continue. It is taken between two updates."""

    env_steps: int
    updates: int
    episodes: int
    recent_returns: list[float]
    parameters: dict[str, Tensor]
    """The network's state dict."""
    optimizer: dict[str, Tensor]
    """The optimiser's statistics, by name."""
    random_states: dict[str, Tensor]
    """State of each worker's action generator, uint8, by the worker's number."""
    precisions: dict[str, str] = field(default_factory=dict)
    """Precision of the workers, fp32 or bf16, by kind of node."""
    attention: np.ndarray | None = None
    """The latest mean attention over slots, (3, H, P). It is drawn, and not needed to continue."""

    @property
    def mean_return(self) -> float | None:
        """Mean score of the last 20 finished games; None before the first."""
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
    """What happened since metrics were taken last."""

    env_steps: int
    updates: int
    learning_rate: float
    entropy_weight: float
    mean_return: float | None
    scalars: dict[str, float] = field(default_factory=dict)
    """Means over the updates, by TensorBoard tag (docs/curves.md). Empty without an update."""
    precisions: dict[str, str] = field(default_factory=dict)
    """Precision of the workers, fp32 or bf16, by kind of node."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Mean time of a worker per update, by part: exchange, play, gradient."""
    staleness: float | None = None
    """Mean number of updates between a gradient's weights and the weights it was applied to."""
    episodes: list[tuple[int, Episode]] = field(default_factory=list)
    """Finished games, each with the step count at which it was reported."""
    attention: np.ndarray | None = None
    """The latest mean attention over slots, (3, H, P), of a Neurocoder actor."""
    workers: int = 1
    """Workers that are playing now."""
    faults: dict[str, int] = field(default_factory=dict)
    """Counts since the start of this process: gradients discarded as duplicate, late or not_finite, restarts of
    workers, and steps_lost, an upper bound on the steps whose gradients were never applied."""
    messages: list[str] = field(default_factory=list)
    """What went wrong, one line each."""


class Training(ABC):
    on_ray = True
    """True if the run uses a Ray cluster that this process is connected to."""

    @property
    @abstractmethod
    def finished(self) -> bool: ...

    @abstractmethod
    def advance(self) -> None:
        """Trains for one update, or for about a second where another process applies the updates.

        Raises TrainingError if training cannot continue."""

    @abstractmethod
    def drain(self) -> Metrics:
        """Returns what happened since the last call."""

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """Returns the state between two updates."""

    @abstractmethod
    def close(self) -> None:
        """Frees games and actors. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
