"""Times alternatives by turns, with their spread, and describes the machine."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

Step = Callable[[], object]
Count = Callable[[], int]


@dataclass(frozen=True)
class Timing:
    """Seconds that a call took in each round, and their ratio to the baseline's in the same round."""

    seconds: np.ndarray  # (rounds,)
    ratio: np.ndarray  # (rounds,)

    def figures(self) -> dict[str, float]:
        """Returns the medians and the middle half of the rounds, in milliseconds."""
        low, median, high = np.percentile(self.seconds * 1e3, (25, 50, 75))
        ratio_low, ratio, ratio_high = np.percentile(self.ratio, (25, 50, 75))
        return dict(
            ms=median, ms_low=low, ms_high=high, ratio=ratio, ratio_low=ratio_low, ratio_high=ratio_high
        )


def compare(alternatives: dict[str, Step], *, rounds: int, seconds: float) -> dict[str, Timing]:
    """Runs each alternative for about `seconds` in every round. The first one is the baseline.

    The machine is the same for neighbours in time. Ratios are therefore taken within a round, not between medians.
    """
    calls = {}
    for name, step in alternatives.items():
        for _ in range(3):  # warm-up
            elapsed = _seconds_a_call(step, 1)
        calls[name] = max(1, round(seconds / elapsed))
    taken: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, step in alternatives.items():
            taken[name].append(_seconds_a_call(step, calls[name]))
    baseline = np.array(next(iter(taken.values())))
    return {name: Timing(np.array(times), np.array(times) / baseline) for name, times in taken.items()}


def rates(count: Count, *, windows: int, seconds: float, warm_up: float) -> np.ndarray:
    """Returns the rise of `count` in a second, (windows,). Waits for its first rise and then for `warm_up` seconds.

    The count rises by jumps. Between two jumps its rise is taken to be even.
    """
    while (last := count()) == 0:
        time.sleep(0.1)
    time.sleep(warm_up)
    moments: list[float] = []
    counts: list[int] = []
    while not moments or moments[-1] < moments[0] + windows * seconds:
        time.sleep(0.05)
        now = count()
        if now != last:
            last = now
            moments.append(time.perf_counter())
            counts.append(now)
    marks = moments[0] + seconds * np.arange(windows + 1)
    return np.diff(np.interp(marks, moments, counts)) / seconds


def rate_figures(speed: np.ndarray) -> dict[str, float]:
    """Returns the median and the range of the windows' rates."""
    return {
        "steps_per_second": float(np.median(speed)),
        "low": float(speed.min()),
        "high": float(speed.max()),
    }


def _seconds_a_call(step: Step, calls: int) -> float:
    _wait_for_gpu()
    start = time.perf_counter()
    for _ in range(calls):
        step()
    _wait_for_gpu()
    return (time.perf_counter() - start) / calls


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Describes what the figures depend on, with the load average of the last minute."""
    root = Path(__file__).parents[2]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True
    )
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or None,
    }


def _cpu_model() -> str:
    """Returns the processor's name and its widest vector unit. A virtual machine often hides the name."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"


def show(values: dict[str, Any]) -> None:
    """Prints names and values in one line."""
    print("  ".join(f"{name} {value}" for name, value in values.items()), flush=True)


def split_settings(argv: list[str]) -> tuple[list[str], list[str]]:
    """Returns the words before and after the first `--`."""
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place + 1 :]


def write_figures(path: str | None, figures: dict[str, Any]) -> None:
    """Writes figures as JSON if a path is given."""
    if path:
        Path(path).write_text(json.dumps(figures, indent=2))
