"""Learning curves of runs, as a table and a picture.

    python -m launch.plot runs/Pong-neurocoder-... runs/Pong-mlp-... --out docs/results/pong

writes pong.csv (run, agent steps, minutes since its start, mean return) and pong.png. A run's minutes count only the time
in which it was training: pauses before a --resume are left out.
"""

import csv
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from launch.command_line.errors import fail

PAUSE = 120.0  # seconds without any point: the run was not training


@dataclass(frozen=True)
class Arguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    out: Path
    """Where to write, without the ending: <out>.csv and <out>.png."""
    window: int = 50
    """Games over which the return is averaged."""
    points: int = 150
    """Points a curve is thinned to."""

    def check(self) -> None:
        """ValueError, in one line, for a setting out of range."""
        if not self.runs:
            raise ValueError("no run given; name one or more run folders")
        for run in self.runs:
            if not (run / "config.json").is_file():
                raise ValueError(f"{run} is not the folder of a run, it has no config.json")
        for flag, value in (("--window", self.window), ("--points", self.points)):
            if value < 1:
                raise ValueError(f"{flag} is {value}; it must be at least 1")
        if not self.out.absolute().parent.is_dir():
            raise ValueError(f"--out {self.out}: its folder does not exist; make it or name another")


class Curve(NamedTuple):
    """Points of one run, (n,) each."""

    steps: np.ndarray
    minutes: np.ndarray
    mean_return: np.ndarray


def learning_curve(run: Path, *, window: int, points: int) -> Curve:
    """Moving mean over the last `window` games, at about `points` places. ValueError if no game has ended."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(
        logging.ERROR
    )  # it reports every resume as an event out of order
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    if "charts/episodic_return" not in tags:
        raise ValueError(f"{run}: no game has ended yet, so there is no curve")
    clock = np.array([point.wall_time for point in events.Scalars("charts/frames")])
    games = events.Scalars("charts/episodic_return")
    steps = np.array([game.step for game in games])
    returns = np.array([game.value for game in games])
    gaps = np.diff(clock, prepend=clock[0])
    training = (
        np.cumsum(np.where(gaps < PAUSE, gaps, 0.0)) / 60
    )  # minutes of training at each mark of the clock
    minutes = np.interp([game.wall_time for game in games], clock, training)
    sums = np.cumsum(np.concatenate(([0.0], returns)))
    last = np.arange(1, len(returns) + 1)
    first = np.maximum(0, last - window)
    mean_return = (sums[last] - sums[first]) / (last - first)
    places = np.unique(np.linspace(0, len(games) - 1, min(points, len(games))).round().astype(int))
    return Curve(steps[places], minutes[places], mean_return[places])


def main() -> None:
    arguments = tyro.cli(Arguments, prog="python -m launch.plot", description=__doc__)
    try:
        arguments.check()
        names = [run.resolve().name for run in arguments.runs]
        if len(set(names)) < len(names):  # runs of several sweeps
            names = list(map(str, arguments.runs))
        curves = {
            name: learning_curve(run, window=arguments.window, points=arguments.points)
            for name, run in zip(names, arguments.runs, strict=True)
        }
    except ValueError as error:
        fail(error)
    csv_file, picture = Path(f"{arguments.out}.csv"), Path(f"{arguments.out}.png")
    with csv_file.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("run", "agent_steps", "minutes", f"mean_return_of_{arguments.window}_games"))
        for name, curve in curves.items():
            for steps, minutes, mean_return in zip(*curve, strict=True):
                table.writerow((name, steps, f"{minutes:.2f}", f"{mean_return:.2f}"))
    draw(curves, picture, window=arguments.window)
    print(f"wrote {csv_file} and {picture}")


def draw(curves: dict[str, Curve], path: Path, *, window: int) -> None:
    """Mean return against agent steps and against minutes, side by side."""
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
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
