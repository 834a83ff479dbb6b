"""Progress lines of a training run and of games being played."""

import os
import sys
import time
from collections import deque
from typing import TextIO

from agents.durations import clock

SPEED_WINDOW = 60.0
"""Seconds over which the speed of a run is measured."""


class ProgressLine:
    """A line about work under way, rewritten every second on a terminal. Elsewhere it is printed every 30 seconds."""

    def __init__(self, stream: TextIO):
        self.stream, self.live = stream, stream.isatty()
        self.interval = 1.0 if self.live else 30.0
        self.shown = time.monotonic()

    def due(self) -> bool:
        """Returns whether it is time for the next line. The time counts from the last call that returned True."""
        now = time.monotonic()
        if now - self.shown < self.interval:
            return False
        self.shown = now
        return True

    def show(self, line: str) -> None:
        """Shows the line, on a terminal in place of the one before."""
        if self.live:
            # A longer line would wrap, and only its last part could be rewritten.
            self._rewrite(line[: self._width() - 1])
        else:
            print(line, file=self.stream, flush=True)

    def say(self, message: str) -> None:
        """Prints a message that stays, above the progress line."""
        self.clear()
        print(message, file=self.stream, flush=True)

    def clear(self) -> None:
        """Wipes the line from a terminal."""
        if self.live:
            self._rewrite("")

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except OSError:  # the terminal has closed
            return 80

    def _rewrite(self, line: str) -> None:
        print(f"\r\x1b[K{line}", end="", file=self.stream, flush=True)


class Progress:
    """The progress line of a training run, on stdout."""

    def __init__(self, total_steps: int, *, frame_skip: int, env_steps: int):
        """
        Args:
            env_steps: the step count that the run starts from.
        """
        self.total_steps, self.frame_skip = total_steps, frame_skip
        self.line = ProgressLine(sys.stdout)
        self._first_steps = env_steps
        # Times and the step counts reached by then, within the window. The first is that of the first steps, so that
        # the start of workers does not count.
        self._marks: deque[tuple[float, int]] = deque()

    @property
    def steps_per_second(self) -> float:
        """Agent steps a second over the last minute; 0 before it is known."""
        if len(self._marks) < 2:
            return 0.0
        (first_time, first_steps), (last_time, last_steps) = self._marks[0], self._marks[-1]
        return (last_steps - first_steps) / max(last_time - first_time, 1e-9)

    def update(self, env_steps: int, mean_return: float | None) -> None:
        """Notes the step count of the run, and shows the line when it is time."""
        now = time.monotonic()
        if env_steps > self._first_steps:
            self._marks.append((now, env_steps))
            while len(self._marks) > 1 and now - self._marks[1][0] > SPEED_WINDOW:
                self._marks.popleft()
        if self.line.due():
            speed = self.steps_per_second
            parts = [f"{env_steps:,} / {self.total_steps:,} steps"]
            if speed:
                parts += [f"{speed:,.0f} steps/s", f"{speed * self.frame_skip:,.0f} frames/s"]
            parts.append(f"mean return {'-' if mean_return is None else f'{mean_return:.1f}'}")
            if speed:
                parts.append(f"ETA {clock(max(0, self.total_steps - env_steps) / speed)}")
            self.line.show("  ".join(parts))

    def say(self, message: str) -> None:
        """Prints a message above the progress line."""
        self.line.say(message)


class GamesProgress:
    """The progress line of games that are played side by side, on stderr. `play` calls it after every step."""

    def __init__(self, games: int, *, name: str = ""):
        """
        Args:
            games: the number of games to play.
            name: the first words of the line.
        """
        self.games, self.prefix = games, f"{name}  " if name else ""
        self.line = ProgressLine(sys.stderr)
        self.began = time.monotonic()

    def __call__(self, finished: int, steps: int) -> None:
        """Shows the line when it is time, and clears it after the last game.

        Args:
            finished: the number of games that have ended.
            steps: the number of steps taken in the longest game.
        """
        if self.line.due():
            elapsed = time.monotonic() - self.began
            left = elapsed * (self.games - finished) / finished if finished else None
            self.line.show(
                f"{self.prefix}{finished} of {self.games} games done, longest {steps:,} steps  "
                f"ETA {clock(left)}"
            )
        if finished == self.games:
            self.line.clear()
