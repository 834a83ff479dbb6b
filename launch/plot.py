"""Draws the learning curves of runs, and writes them as a table.

    python -m launch.plot runs/Pong-neurocoder-... runs/Pong-mlp-... --out docs/results/pong

This writes the table pong.csv and the picture pong.png to docs/results. The table has the run, its agent
steps, its minutes of training and its mean return. Pauses before a --resume do not count as training.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from launch.command_line.command import command
from launch.command_line.errors import check_paths, fail
from launch.command_line.parsing import read_arguments
from launch.results.files import write_csv, write_picture
from neurocoder.checks import check_at_least

PAUSE = 120.0
"""Seconds without a point after which a run counts as not training."""


@dataclass(frozen=True)
class Arguments:
    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help_behavior_hint="", metavar="RUN ...")
    ]
    """Run folders, one or more."""
    out: Path
    """Files to write, without their endings: the table is <out>.csv, and the picture <out>.png."""
    window: int = 50
    """Number of games over which the return is averaged."""
    points: int = 150
    """Largest number of points in the curve of a run."""

    def check(self) -> None:
        """Raises ValueError, in one line, for a setting out of range."""
        check_paths(self)
        if not self.runs:
            raise ValueError("no run given; name one or more run folders")
        for run in self.runs:
            if not (run / "config.json").is_file():
                raise ValueError(f"{run} is not the folder of a run, it has no config.json")
        check_at_least("--window", self.window, 1)
        check_at_least("--points", self.points, 1)
        if not self.out.absolute().parent.is_dir():
            raise ValueError(f"--out {self.out}: its folder does not exist; make it or name another")


class Curve(NamedTuple):
    """The curve of one run, with n points: (n,) each."""

    steps: np.ndarray
    minutes: np.ndarray
    mean_return: np.ndarray


def learning_curve(run: Path, *, window: int, points: int) -> Curve:
    """Reads the curve of a run from its folder. Raises ValueError if no game has ended.

    Args:
        window: the number of games over which the return is averaged.
        points: the largest number of points, at equal distances.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # TensorBoard would report every resume as an event out of order.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    if "charts/episodic_return" not in tags:
        raise ValueError(f"{run}: no game has ended yet, so there is no curve")
    clock = np.array([point.wall_time for point in events.Scalars("charts/frames")])
    games = events.Scalars("charts/episodic_return")
    steps = np.array([game.step for game in games])
    minutes = np.interp([game.wall_time for game in games], clock, training_minutes(clock))
    mean_return = moving_mean(np.array([game.value for game in games]), window)
    places = np.unique(np.linspace(0, len(games) - 1, min(points, len(games))).round().astype(int))
    return Curve(steps[places], minutes[places], mean_return[places])


def training_minutes(clock: np.ndarray) -> np.ndarray:
    """Returns the minutes of training by each time of the clock, (n,) seconds. Pauses count as nothing."""
    gaps = np.diff(clock, prepend=clock[0])
    return np.cumsum(np.where(gaps < PAUSE, gaps, 0.0)) / 60


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the mean of each value (n,) and those before it, `window` values together, fewer at the start."""
    sums = np.cumsum(np.concatenate(([0.0], values)))  # (n + 1,)
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - window)
    return (sums[last] - sums[first]) / (last - first)


@command
def main() -> None:
    arguments = read_arguments(Arguments, sys.argv[1:], program="python -m launch.plot", description=__doc__)
    try:
        arguments.check()
        names = [run.resolve().name for run in arguments.runs]
        # Runs of several sweeps may have the same name.
        if len(set(names)) < len(names):
            names = list(map(str, arguments.runs))
        curves = {
            name: learning_curve(run, window=arguments.window, points=arguments.points)
            for name, run in zip(names, arguments.runs, strict=True)
        }
    except ValueError as error:
        fail(error)
    csv_file, picture = Path(f"{arguments.out}.csv"), Path(f"{arguments.out}.png")
    write_csv(
        csv_file,
        ("run", "agent_steps", "minutes", f"mean_return_of_{arguments.window}_games"),
        (
            (name, steps, f"{minutes:.2f}", f"{mean_return:.2f}")
            for name, curve in curves.items()
            for steps, minutes, mean_return in zip(*curve, strict=True)
        ),
    )
    draw(curves, picture, window=arguments.window)
    print(f"wrote {csv_file} and {picture}")


def draw(curves: dict[str, Curve], path: Path, *, window: int) -> None:
    """Draws the mean return against agent steps and against minutes, side by side."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (by_steps, by_minutes) = pyplot.subplots(
        1, 2, figsize=(10, 3.6), sharey=True, layout="constrained"
    )
    for name, curve in curves.items():
        by_steps.plot(curve.steps / 1e6, curve.mean_return, label=name)
        by_minutes.plot(curve.minutes, curve.mean_return, label=name)
    by_steps.set(xlabel="agent steps (millions)", ylabel=f"return, mean of {window} games")
    by_minutes.set(xlabel="minutes of training")
    for panel in (by_steps, by_minutes):
        panel.grid(alpha=0.3)
    figure.legend(*by_steps.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    write_picture(path, figure, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
