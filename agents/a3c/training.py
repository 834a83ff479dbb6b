"""The interface of a training run, in this process or on Ray. Writing curves and checkpoints is the caller's."""

from typing import Protocol, Self

from agents.a3c.parameter_owner import Metrics, Snapshot


class Training(Protocol):
    @property
    def finished(self) -> bool: ...

    def advance(self) -> None:
        """Goes on with training for one update, or for about a second where updates are applied elsewhere.

        Raises TrainingError if it cannot go on."""

    def drain(self) -> Metrics:
        """What happened since the last call."""

    def snapshot(self) -> Snapshot:
        """The state between two updates."""

    def close(self) -> None:
        """Frees games and actors."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
