"""The results of an experiment's finished runs: a table, CSV files and a picture of the curves.

results.md      the table, as it was printed
results.csv     a row for every seed
summary.csv     mean and deviation of every metric, by label
curves.csv      every point of every seed's curve
curves.png      the curves, by label
accuracy.csv    continual runs: the accuracy on each task after each task
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.folder import FAILED, RESULT
from launch.results import pictures
from launch.results.files import write_csv
from launch.results.tables import aligned, show_and_keep

ABOUT = ("parameters", "steps", "seconds", "device")
"""Plain values of a result.json that each of its seeds has."""


@dataclass(frozen=True)
class Outcome:
    """The result of one seed."""

    seed: int
    layer: str
    metric: str
    larger_is_better: bool
    scalars: dict[str, float]
    """Numbers by name."""
    curve: list[tuple[int, float]]
    """The metric against steps, or against tasks seen."""
    accuracy: list[list[float]]
    """Continual runs: R[t][i] on task i after task t. Empty for others."""
    about: dict[str, Any]


@dataclass
class Group:
    """The runs of one label."""

    label: str
    outcomes: list[Outcome] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Names of the runs that ended with an error. They are in no mean."""

    def summary(self) -> dict[str, tuple[float, float]]:
        """Computes mean and sample deviation (n - 1) of every scalar. The deviation of one seed is nan."""
        summary = {}
        for name in dict.fromkeys(name for outcome in self.outcomes for name in outcome.scalars):
            values = [outcome.scalars[name] for outcome in self.outcomes if name in outcome.scalars]
            deviation = np.std(values, ddof=1) if len(values) > 1 else np.nan
            summary[name] = float(np.mean(values)), float(deviation)
        return summary


def read_groups(experiment: Path) -> list[Group]:
    """Reads the runs of an experiment that have finished or failed, by label in alphabetical order."""
    groups: dict[str, Group] = {}
    for path in sorted(experiment.glob("*/config.json")):
        label, run = json.loads(path.read_text())["label"], path.parent
        group = groups.setdefault(label, Group(label))
        if (run / RESULT).exists():
            group.outcomes += read_outcomes(json.loads((run / RESULT).read_text()))
        elif (run / FAILED).exists():
            group.failed.append(run.name)
    for group in groups.values():
        group.outcomes.sort(key=lambda outcome: outcome.seed)
    return [groups[label] for label in sorted(groups) if groups[label].outcomes or groups[label].failed]


def read_outcomes(result: dict[str, Any]) -> list[Outcome]:
    """Reads the seeds of a result.json, which may be of an earlier version."""
    about = {name: result[name] for name in ABOUT if name in result}
    if "accuracy" in result:
        return read_continual(result, about)
    # Earlier versions had these numbers, but not among scalars.
    earlier = {name: result[name] for name in ("final", "best", "best_step")}
    earlier["steps_per_second"] = result["steps"] / result["seconds"]
    scalars = {
        name: math.nan if value is None else value for name, value in result.get("scalars", earlier).items()
    }
    curve = [(step, value) for step, value in result["curve"]]
    return [
        Outcome(
            result["seed"],
            result["config"]["layer"],
            result["metric"],
            result["larger_is_better"],
            scalars,
            curve,
            [],
            about,
        )
    ]


def read_continual(result: dict[str, Any], about: dict[str, Any]) -> list[Outcome]:
    """Reads the seeds of a continual run, which trained together. Their metrics follow from the accuracies."""
    import torch

    from agents.continual.metrics import accuracy_on_seen_tasks, all_metrics

    accuracy = torch.tensor(result["accuracy"], dtype=torch.float64)  # (S, T, T)
    scalars = all_metrics(accuracy, torch.tensor(result["untrained"], dtype=torch.float64))  # (S,) each
    curves = accuracy_on_seen_tasks(accuracy).tolist()  # (S, T)
    return [
        Outcome(
            seed,
            result["config"]["layer"],
            "average accuracy",
            larger_is_better=True,
            scalars={name: values[row].item() for name, values in scalars.items()},
            curve=list(enumerate(curves[row], start=1)),
            accuracy=result["accuracy"][row],
            about=about,
        )
        for row, seed in enumerate(result["seeds"])
    ]


def conclude(experiment: Path) -> None:
    """Prints the table of an experiment, and writes it with the picture and the CSV files to the experiment's folder.

    Does nothing without results. A disk that refuses the files costs a warning.
    """
    groups = read_groups(experiment)
    if not groups:
        return

    def write_files() -> None:
        write_tables(groups, experiment)
        if finished := [group for group in groups if group.outcomes]:
            draw(finished, experiment / "curves.png")

    show_and_keep(table(groups), experiment, write_files)


def write_tables(groups: list[Group], experiment: Path) -> None:
    """Writes results.csv, summary.csv, curves.csv and, for continual runs, accuracy.csv."""
    seeds = [(group.label, outcome) for group in groups for outcome in group.outcomes]
    rows = [
        {"label": label, "seed": outcome.seed, "metric": outcome.metric, **outcome.scalars, **outcome.about}
        for label, outcome in seeds
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(experiment / "results.csv", columns, ([row.get(name, "") for name in columns] for row in rows))
    write_csv(
        experiment / "summary.csv",
        ("label", "parameters", "metric", "mean", "deviation", "n", "failed"),
        (
            (group.label, group.outcomes[0].about["parameters"], name, f"{mean:.6g}", f"{deviation:.6g}",
             len(group.outcomes), len(group.failed))
            for group in groups
            for name, (mean, deviation) in group.summary().items()
        ),
    )  # fmt: skip
    write_csv(
        experiment / "curves.csv",
        ("label", "seed", x_name(groups), seeds[0][1].metric if seeds else "metric"),
        ((label, o.seed, x, f"{value:.6g}") for label, o in seeds for x, value in o.curve),
    )
    if any(outcome.accuracy for _, outcome in seeds):
        write_csv(
            experiment / "accuracy.csv",
            ("label", "seed", "after_task", "on_task", "accuracy"),
            (
                (label, outcome.seed, t, i, f"{accuracy:.4f}")
                for label, outcome in seeds
                for t, row in enumerate(outcome.accuracy, start=1)
                for i, accuracy in enumerate(row, start=1)
            ),
        )


def x_name(groups: list[Group]) -> str:
    """Names what the curves are drawn against."""
    return "tasks_seen" if any(o.accuracy for group in groups for o in group.outcomes) else "step"


def table(groups: list[Group]) -> str:
    """Shows mean ± sample deviation over n seeds of every scalar, a line for each label."""
    summaries = [group.summary() for group in groups]
    names = list(dict.fromkeys(name for summary in summaries for name in summary))
    rows = [["label", "parameters", "n", "failed", *(name.replace("_", " ") for name in names)]]
    for group, summary in zip(groups, summaries, strict=True):
        parameters = f"{group.outcomes[0].about['parameters']:,}" if group.outcomes else "-"
        cells = [cell(*summary[name]) if name in summary else "-" for name in names]
        rows.append([group.label, parameters, str(len(group.outcomes)), str(len(group.failed)), *cells])
    metrics = dict.fromkeys(outcome.metric for group in groups for outcome in group.outcomes)
    title = f"{', '.join(metrics) or 'no finished run'}: mean ± sample deviation over n seeds"
    lines = aligned(rows)
    if failed := [name for group in groups for name in group.failed]:
        lines.append(f"failed, and in no mean: {', '.join(failed)}")
    return "\n".join([title, *lines])


def cell(mean: float, deviation: float) -> str:
    """Formats a mean and its deviation, which is left out for one seed."""
    return f"{mean:.5g}" if math.isnan(deviation) else f"{mean:.5g} ± {deviation:.3g}"


def draw(groups: list[Group], path: Path) -> None:
    """Draws the metric against steps or tasks seen. Raises OSError if the file cannot be written."""
    latest = next(outcome for group in groups for outcome in group.outcomes)
    panel = pictures.Panel(
        x_name(groups),
        latest.metric,
        [
            pictures.Group(
                group.label,
                group.outcomes[0].layer,
                [pictures.Line(*np.array(outcome.curve).T) for outcome in group.outcomes],
            )
            for group in groups
        ],
        logarithmic=not latest.larger_is_better,
    )
    pictures.draw([[panel]], path)
