"""What the runs of every command have learnt so far, read from their folders."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.runs.folder import CONFIG_KEYS, RESULT
from launch.results.files import write_csv

PAUSE = 120.0
"""Seconds without a point after which a run counts as not training."""
OTHER_CHARTS = {"charts/learning_rate", "charts/samples_per_second"}
"""Curves of a supervised run that are not its metric."""

Table = dict[str, np.ndarray]
"""Columns of numbers by name, (n,) each."""


class Axes(NamedTuple):
    """The columns of a table that are drawn against each other."""

    x: str
    y: str
    logarithmic: bool = False


@dataclass(frozen=True)
class RunCurves:
    """The curves of a run, or of one seed among those that trained together as one run."""

    run: Path
    subject: str
    """What is learnt. Curves of different subjects are not comparable."""
    layer: str
    configuration: str
    """The settings without seeds. It is equal in runs that differ in nothing else."""
    table: Table
    axes: tuple[Axes, ...]

    @property
    def label(self) -> str:
        """The name of the folder without its seed or time."""
        return re.sub(r"-(seed\d+(-\d+)?|\d{8}-\d{6}(-\d+)?)$", "", self.run.resolve().name)


def run_folders(path: Path) -> list[Path]:
    """Returns the folder of a run, or all runs in a folder of runs. Raises ValueError if it is neither."""
    if (path / "config.json").is_file():
        return [path]
    runs = sorted(config.parent for config in path.glob("*/config.json"))
    if not runs:
        raise ValueError(f"{path} is not the folder of a run or of runs, it has no config.json")
    return runs


def read_curves(run: Path, *, window: int, points: int) -> list[RunCurves]:
    """Reads the curves of a run of any command.

    Args:
        window: the number of games over which the return is averaged.
        points: the largest number of points of a curve, at equal distances.

    Raises:
        ValueError: there is nothing to draw yet, or config.json is not of a run.
    """
    try:
        described = json.loads((run / "config.json").read_text())
        (key,) = CONFIG_KEYS & described.keys()
        settings = described[key]
        if key == "supervised":
            subject, layer = f"{settings['task']}, {settings['network']}", settings["layer"]
        elif key == "continual":
            subject = f"{settings['benchmark']}, incremental {settings['scenario']}"
            layer = settings["layer"]
        else:
            subject, layer = settings["env"], settings["head"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{run}: its config.json is not of a run") from error
    if key == "supervised":
        tables, axes = _supervised(run)
    elif key == "continual":
        tables, axes = _continual(run, settings["seeds"])
    else:
        tables, axes = _atari(run, window)
    alike = {name: value for name, value in settings.items() if name not in ("seed", "seeds")}
    configuration = json.dumps([key, alike], sort_keys=True)
    return [RunCurves(run, subject, layer, configuration, thinned(table, points), axes) for table in tables]


def thinned(table: Table, points: int) -> Table:
    """Returns `points` rows of a table at equal distances, or all if there are no more."""
    count = len(next(iter(table.values())))
    places = np.unique(np.linspace(0, count - 1, min(points, count)).round().astype(int))
    return {name: column[places] for name, column in table.items()}


def _scalars(run: Path) -> dict[str, list[Any]]:
    """Reads all points that a run has written for TensorBoard, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # TensorBoard would report every resume as an event out of order.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def _values(points: list[Any]) -> np.ndarray:
    return np.array([point.value for point in points])


def _atari(run: Path, window: int) -> tuple[list[Table], tuple[Axes, ...]]:
    scalars = _scalars(run)
    games = scalars.get("charts/episodic_return")
    if not games:
        raise ValueError(f"{run}: no game has ended yet, so there is no curve")
    clock = np.sort([point.wall_time for point in [*games, *scalars.get("charts/frames", ())]])
    mean_return = f"mean_return_of_{window}_games"
    table = {
        "agent_steps": np.array([game.step for game in games]),
        "minutes": np.interp([game.wall_time for game in games], clock, training_minutes(clock)),
        mean_return: moving_mean(_values(games), window),
    }
    return [table], (Axes("agent_steps", mean_return), Axes("minutes", mean_return))


def _supervised(run: Path) -> tuple[list[Table], tuple[Axes, ...]]:
    scalars = _scalars(run)
    metric = next((tag for tag in scalars if tag.startswith("charts/") and tag not in OTHER_CHARTS), None)
    if metric is None:
        raise ValueError(f"{run}: it has not been evaluated yet, so there is no curve")
    name, records = metric.removeprefix("charts/"), scalars["losses/task"]
    steps = np.array([point.step for point in scalars[metric]])
    loss = means_between(steps, np.array([record.step for record in records]), _values(records))
    table = {"step": steps, name: _values(scalars[metric]), "loss": loss}
    axes = (Axes("step", name, logarithmic="accuracy" not in name), Axes("step", "loss", logarithmic=True))
    # Where data are fresh at every step, the metric may be the loss.
    return [table], axes[:1] if np.allclose(table[name], loss, rtol=1e-3) else axes


def means_between(ends: np.ndarray, steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the means (m,) of what lies between each of the `ends` (m,) and the one before it.

    Args:
        steps: (n,), where each record of some steps ends. All of `ends` are among them.
        values: (n,), the mean over the steps of each record.
    """
    last = np.searchsorted(steps, ends)
    sums = np.cumsum(values * np.diff(steps, prepend=0))[last]
    return np.diff(sums, prepend=0.0) / np.diff(ends, prepend=0)


def _continual(run: Path, seeds: list[int]) -> tuple[list[Table], tuple[Axes, ...]]:
    if (run / RESULT).exists():
        matrices = [np.array(matrix) for matrix in json.loads((run / RESULT).read_text())["accuracy"]]
    else:
        # The curves of a run that is not finished are means over its seeds.
        matrices, seeds = [_accuracies(run)], seeds[:1]
    tables = []
    for seed, matrix in zip(seeds, matrices, strict=True):  # (T, T) of the tasks done
        task = np.arange(1, len(matrix) + 1)
        average = np.tril(matrix).sum(axis=1) / task
        tables.append(
            {
                "seed": np.full(len(task), seed),
                "task": task,
                "average_accuracy_so_far": average,
                "latest_accuracy": matrix[-1],
            }
        )
    return tables, (Axes("task", "average_accuracy_so_far"), Axes("task", "latest_accuracy"))


def _accuracies(run: Path) -> np.ndarray:
    """Reads the accuracy on task i after task t, (T, T) for the T tasks done. It is 0 for tasks not yet seen."""
    scalars = _scalars(run)
    tasks = len(scalars.get("accuracy/task_1", ()))
    if not tasks:
        raise ValueError(f"{run}: it has not finished a task yet, so there is no curve")
    matrix = np.zeros((tasks, tasks))
    for i in range(tasks):
        matrix[i:, i] = _values(scalars[f"accuracy/task_{i + 1}"])
    return matrix


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


def write_table(curves: Sequence[RunCurves], path: Path) -> None:
    """Writes the points of all curves. A column that a run does not have is left empty. Raises OSError."""
    names = {curve.run: curve.run.resolve().name for curve in curves}
    # Runs of several sweeps may have the same name.
    if len(set(names.values())) < len(names):
        names = {run: str(run) for run in names}
    columns = dict.fromkeys(column for curve in curves for column in curve.table)
    rows = []
    for curve in curves:
        for point in zip(*curve.table.values(), strict=True):
            cells = (f"{value:.6g}" if value % 1 else str(int(value)) for value in point)
            row = dict(zip(curve.table, cells, strict=True))
            rows.append([names[curve.run], *(row.get(column, "") for column in columns)])
    write_csv(path, ["run", *columns], rows)
