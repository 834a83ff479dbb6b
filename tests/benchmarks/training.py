"""An A3C run that is measured for a while."""

import time
from dataclasses import dataclass

import numpy as np
import psutil

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from tests.benchmarks.measure import rates

PARTS = ("play", "gradient", "exchange")


@dataclass(frozen=True)
class Trained:
    speed: np.ndarray  # (windows,) agent steps a second
    seconds: np.ndarray  # (looks, 3)
    """Time of a worker for each of PARTS in an update, as means over the updates between two looks."""
    staleness: float
    resident: int
    """Resident memory of the server and the workers, in bytes."""
    ended: float
    """End of the last window, as by `time.time()`."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part in a worker's time."""
        means = self.seconds.mean(0)
        return dict(zip(PARTS, (means / means.sum()).tolist(), strict=True))


def train(config: A3CConfig, *, windows: int, seconds: float, warm_up: float) -> Trained:
    """Trains and measures. The warm-up begins with the first update."""
    updates: list[tuple[float, list[float], float | None]] = []

    def count() -> int:
        metrics = training.drain()
        if not metrics.updates:
            # It raises an error if workers cannot start.
            training.advance()
        if metrics.seconds:
            updates.append(
                (time.perf_counter(), [metrics.seconds[part] for part in PARTS], metrics.staleness)
            )
        return metrics.env_steps

    with start_training(config) as training:
        speed = rates(count, windows=windows, seconds=seconds, warm_up=warm_up)
        begin, ended = time.perf_counter() - windows * seconds, time.time()
        family = psutil.Process().children(recursive=True)
        actors = [child for child in family if child.name().startswith("ray::")]
        resident = sum(
            child.memory_info().rss for child in actors if "Owner" in child.name() or "Worker" in child.name()
        )
    _, parts, staleness = zip(*(update for update in updates if update[0] >= begin), strict=True)
    return Trained(speed, np.array(parts), float(np.mean(staleness)), resident, ended)
