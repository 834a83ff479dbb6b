"""Snapshots of runs as checkpoints, of whatever kind the run is."""

from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor

from agents.errors import LOWER_RATE, TrainingError
from agents.finite import first_not_finite
from agents.runs.checkpoints import Checkpoint, CheckpointError, check_finite, save_checkpoint


class Snapshot(Protocol):
    """All that a run needs to continue."""

    def parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """What a checkpoint holds: tensors by group and name, and plain values."""
        ...

    @classmethod
    def from_parts(cls, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Self:
        """The inverse of `parts`. Raises KeyError if something is missing."""
        ...


S = TypeVar("S", bound=Snapshot)


def save_snapshot(folder: Path, step: int, snapshot: Snapshot, **about: Any) -> Path:
    """Writes a snapshot as the checkpoint of a step, and returns its folder.

    Args:
        about: more plain values for the checkpoint's state, such as the run's settings.

    Raises:
        TrainingError: the run has diverged: a tensor is not finite. Nothing is written.
        OSError: the disk is full or read-only.
    """
    tensors, state = snapshot.parts()
    if (name := first_not_finite(*tensors.values())) is not None:
        raise TrainingError(f"the run has diverged at step {step:,}: {name} is not finite; {LOWER_RATE}")
    return save_checkpoint(folder, step, tensors, state | about)


def to_snapshot(kind: type[S], checkpoint: Checkpoint) -> S:
    """The inverse of `save_snapshot`.

    Raises:
        CheckpointError: a checkpoint of another kind of run, or of one that has diverged.
    """
    check_finite(checkpoint)
    try:
        return kind.from_parts(checkpoint.step, checkpoint.tensors, checkpoint.state)
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint.path}: a checkpoint of another kind of run, it has no {error}"
        ) from error
