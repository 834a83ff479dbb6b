"""The interface of a training run, in this process or on Ray. Writing curves and checkpoints is the caller's."""

from abc import ABC, abstractmethod
from typing import Self

from agents.a3c.parameter_owner import Metrics, Snapshot


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
