"""Draws the learning curves of runs, and writes them as a table.

    python -m launch.plot runs/Pong-neurocoder-... runs/Pong-mlp-... --out docs/results/pong
    python -m launch.plot runs/sweep-... --out sweep

The first line writes the table pong.csv and the picture pong.png to docs/results. Runs of every command can be drawn,
also while they train. A folder of runs, such as that of a sweep, stands for its runs. Runs that differ in nothing but
the seed are one line, their mean, with a band from the lowest to the highest. It goes as far as all of them have come.
Pauses before a --resume do not count as minutes of training.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from launch.command_line.command import command
from launch.command_line.errors import check_output, check_paths, fail
from launch.command_line.parsing import read_arguments
from launch.results.curves import RunCurves, read_curves, run_folders, write_table
from launch.results.pictures import draw, panels_of
from neurocoder.checks import check_at_least


@dataclass(frozen=True)
class Arguments:
    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help_behavior_hint="", metavar="RUN ...")
    ]
    """Folders of runs, one or more. What cannot be drawn is named and left out."""
    out: Path
    """Files to write, without their endings: the table is <out>.csv, and the picture <out>.png."""
    window: int = 50
    """Number of games over which the return is averaged."""
    points: int = 150
    """Largest number of points in the curve of a run."""

    @property
    def table(self) -> Path:
        return Path(f"{self.out}.csv")

    @property
    def picture(self) -> Path:
        return Path(f"{self.out}.png")

    def check(self) -> None:
        """Raises ValueError, in one line, for a setting out of range."""
        check_paths(self)
        if not self.runs:
            raise ValueError("no run given; name one or more run folders")
        check_at_least("--window", self.window, 1)
        check_at_least("--points", self.points, 1)
        for file in (self.table, self.picture):
            check_output(file)


@command
def main() -> None:
    arguments = read_arguments(Arguments, sys.argv[1:], program="python -m launch.plot", description=__doc__)
    try:
        arguments.check()
    except ValueError as error:
        fail(error)
    curves, left_out = read_all(arguments)
    if not curves:
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        fail(f"there is nothing to draw: {left_out[0]}{more}")
    write_table(curves, arguments.table)
    draw(panels_of(curves), arguments.picture)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    print(f"wrote {arguments.table} and {arguments.picture}")


def read_all(arguments: Arguments) -> tuple[list[RunCurves], list[str]]:
    """Reads the curves of all runs. Returns them, and why others cannot be drawn."""
    curves: list[RunCurves] = []
    left_out, folders = [], dict[Path, Path]()
    for path in arguments.runs:
        try:
            # A run may be given by itself and with its folder.
            folders |= {run.resolve(): run for run in run_folders(path)}
        except ValueError as error:
            left_out.append(str(error))
    for run in folders.values():
        try:
            curves += read_curves(run, window=arguments.window, points=arguments.points)
        except ValueError as error:
            left_out.append(str(error))
    return curves, left_out


if __name__ == "__main__":
    main()
