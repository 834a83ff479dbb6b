"""An A3C run that is looked at for a while."""

import time
from dataclasses import dataclass

import numpy as np
import psutil

from agents.a3c import start_training
from agents.a3c.config import A3CConfig

PARTS = ("play", "gradient", "exchange")


@dataclass(frozen=True)
class Trained:
    speed: np.ndarray  # (windows,) agent steps a second
    seconds: np.ndarray  # (looks, 3) what a worker spent on each of PARTS in an update, mean over the updates of a tenth of a second
    staleness: float
    resident: int
    """Bytes of the owner and the workers."""

    @property
    def shares(self) -> dict[str, float]:
        """Of a worker's time."""
        means = self.seconds.mean(0)
        return dict(zip(PARTS, (means / means.sum()).tolist(), strict=True))


def train(config: A3CConfig, *, windows: int, seconds: float, warm_up: float) -> Trained:
    """The warm-up begins with the first update."""
    with start_training(config) as training:
        while training.drain().env_steps == 0:
            time.sleep(0.1)
        time.sleep(warm_up)
        training.drain()
        marks = time.perf_counter() + seconds * np.arange(windows + 1)
        moments, steps, updates, staleness = [], [], [], []
        while not moments or moments[-1] < marks[-1]:  # the last update lies beyond
            metrics = training.drain()
            if metrics.seconds:
                moments.append(time.perf_counter())
                steps.append(metrics.env_steps)
                updates.append([metrics.seconds[part] for part in PARTS])
                staleness.append(metrics.staleness)
            time.sleep(0.1)
        family = psutil.Process().children(recursive=True)
        actors = [child for child in family if child.name().startswith("ray::")]
        resident = sum(
            child.memory_info().rss for child in actors if "Owner" in child.name() or "Worker" in child.name()
        )
    speed = np.diff(np.interp(marks, moments, steps)) / seconds
    return Trained(speed, np.array(updates), float(np.mean(staleness)), resident)
