"""The one style of all pictures of learning curves."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from launch.results.curves import RunCurves
from launch.results.files import write_picture
from neurocoder.settings import LAYERS

COLOURS = {layer: f"C{number}" for number, layer in enumerate(LAYERS)}
"""A layer has the same colour in every picture."""
STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 4)))
"""What tells the configurations of one layer apart."""
FONTS = {"font.size": 11, "axes.titlesize": 12, "legend.fontsize": 10}


class Line(NamedTuple):
    """The curve of a run, in n points."""

    x: np.ndarray  # (n,)
    y: np.ndarray  # (n,)


@dataclass(frozen=True)
class Group:
    """The runs of one configuration."""

    label: str
    layer: str
    runs: list[Line]


@dataclass(frozen=True)
class Panel:
    """One pair of axes. Panels of a row show the same groups."""

    x: str
    """The name of what is along the axis, such as agent_steps."""
    y: str
    groups: list[Group]
    title: str = ""
    logarithmic: bool = False


def mean_and_range(runs: Sequence[Line]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns x, mean, lowest and highest (n,) each, as far as all runs have come."""
    if len(runs) == 1:
        return runs[0].x, runs[0].y, runs[0].y, runs[0].y
    x = np.unique(np.concatenate([run.x for run in runs]))
    x = x[x <= min(run.x.max() for run in runs)]
    values = []
    for run in runs:
        order = np.argsort(run.x, kind="stable")
        values.append(np.interp(x, run.x[order], run.y[order]))
    return x, np.mean(values, axis=0), np.min(values, axis=0), np.max(values, axis=0)


def draw(rows: Sequence[Sequence[Panel]], path: Path) -> None:
    """Draws rows of panels, with a legend beside each row. Raises OSError if the file cannot be written.

    A line is the mean of the runs of a group. A band reaches from their lowest to their highest.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    heights = [max(3.8, 0.8 + 0.25 * len(row[0].groups)) for row in rows]
    width = 4.8 * max(map(len, rows)) + 3
    with pyplot.rc_context(FONTS):
        figure = pyplot.figure(figsize=(width, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
        for row, part in zip(rows, parts, strict=True):
            places = part.subplots(1, len(row), squeeze=False)[0]
            for panel, place in zip(row, places, strict=True):
                _draw_panel(panel, place)
            bands = any(len(group.runs) > 1 for group in row[0].groups)
            part.legend(
                *places[0].get_legend_handles_labels(),
                loc="outside right upper",
                title="line: mean of n runs\nband: lowest to highest" if bands else None,
                alignment="left",
            )
        write_picture(path, figure, dpi=120)
        pyplot.close(figure)


def axis_label(column: str) -> str:
    """Returns the words beside an axis that shows a column."""
    return column.replace("_", " ") + (" (%)" if "accuracy" in column else "")


def _draw_panel(panel: Panel, axes: Any) -> None:
    from matplotlib.ticker import EngFormatter

    drawn: Counter[str] = Counter()
    for group in panel.groups:
        x, mean, low, high = mean_and_range(group.runs)
        colour, style = COLOURS.get(group.layer, "gray"), STYLES[drawn[group.layer] % len(STYLES)]
        drawn[group.layer] += 1
        label = f"{group.label} (n = {len(group.runs)})"
        # A single point has no line.
        marker = "o" if len(x) == 1 else None
        axes.plot(x, mean, label=label, color=colour, linestyle=style, marker=marker)
        if len(group.runs) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=axis_label(panel.x), ylabel=axis_label(panel.y), title=panel.title)
    if panel.logarithmic:
        axes.set_yscale("log")
    if "task" in panel.x:
        axes.xaxis.get_major_locator().set_params(integer=True)
    elif "step" in panel.x:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3, which="both")


def panels_of(curves: Sequence[RunCurves]) -> list[list[Panel]]:
    """Returns a row of panels for each subject, with a group for each configuration."""
    subjects: dict[str, dict[str, list[RunCurves]]] = defaultdict(lambda: defaultdict(list))
    for curve in curves:
        subjects[curve.subject][curve.configuration].append(curve)
    return [
        [
            Panel(
                axes.x,
                axes.y,
                [
                    Group(label, runs[0].layer, [Line(run.table[axes.x], run.table[axes.y]) for run in runs])
                    for label, runs in zip(labels(list(groups.values())), groups.values(), strict=True)
                ],
                title=subject,
                logarithmic=axes.logarithmic,
            )
            for axes in next(iter(groups.values()))[0].axes
        ]
        for subject, groups in subjects.items()
    ]


def labels(groups: Sequence[Sequence[RunCurves]]) -> list[str]:
    """Names each group after its folders. Equal names become the path of the group's first run."""
    names = [list(dict.fromkeys(run.label for run in group)) for group in groups]
    short = [name if not more else f"{name} and {len(more)} more" for name, *more in names]
    return [
        label if short.count(label) == 1 else str(group[0].run)
        for label, group in zip(short, groups, strict=True)
    ]
