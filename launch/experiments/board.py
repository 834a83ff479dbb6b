"""What a terminal shows of many runs."""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path


class Board:
    """One line for each run. On a terminal the lines of running runs are redrawn below those of ended ones.

    Elsewhere, such as in a file, the lines are repeated now and then.
    """

    def __init__(self, runs: Sequence[Path]):
        self.width = max(len(run.name) for run in runs)
        self.waiting = {run.name for run in runs}
        self.running: dict[str, str] = {}
        self.terminal = sys.stdout.isatty()
        # The number of lines at the end of the terminal that are redrawn.
        self.drawn = 0
        self.shown = -float("inf")

    def update(self, lines: dict[str, str]) -> None:
        """Takes the latest lines of running runs, and shows them when the time has come."""
        self.waiting -= lines.keys()
        self.running |= lines
        if time.monotonic() - self.shown >= (1.0 if self.terminal else 30.0):
            self._show()

    def warn(self, name: str, line: str) -> None:
        """Shows a warning of a run, which stays."""
        warning = f"warning: {name}: {line}"
        if self.terminal:
            self._show(warning)
        else:
            print(warning, flush=True)

    def end(self, name: str, how: str) -> None:
        """Shows that a run has ended: done, stopped or failed."""
        self.waiting.discard(name)
        self._show(f"{name:{self.width}}  {how:7}  {self.running.pop(name, '')}".rstrip())

    def _show(self, *ended: str) -> None:
        self.shown = time.monotonic()
        lines = [f"{name:{self.width}}  {line}" for name, line in self.running.items()]
        if self.terminal:
            # A line that is wrapped or scrolled away could not be redrawn.
            columns, rows = shutil.get_terminal_size()
            lines = [line[: columns - 1] for line in lines[: rows - 2]]
            print(f"\x1b[{self.drawn}A\x1b[J" if self.drawn else "", end="")
        lines += [f"{len(self.waiting)} waiting"] if self.waiting else []
        print(*ended, *lines, sep="\n", end="\n" if ended or lines else "", flush=True)
        self.drawn = len(lines)
