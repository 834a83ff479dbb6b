"""How a run is asked to stop between two steps, or between two batches of long work."""

from collections.abc import Callable

ShouldStop = Callable[[], bool]
"""Says whether the run should stop. It is called at every step, so it must be fast."""


class Stopped(Exception):
    """Work was given up between two batches, because the run should stop. It is done again when the run continues."""


def never() -> bool:
    return False


def raise_if(should_stop: ShouldStop) -> None:
    """Raises Stopped if the run should stop."""
    if should_stop():
        raise Stopped
