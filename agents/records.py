"""What supervised and continual training say about the steps just taken."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """What happened in the steps up to `step`."""

    step: int
    """Optimiser steps since the start of the run."""
    scalars: dict[str, float]
    """Values for the curves, by TensorBoard tag."""
    progress: str
    """Where the run is, in one line."""
