"""Progress lines of a training run and of games being played: rewritten in place on a terminal, plain lines now and then elsewhere."""

import sys
import time
from collections import deque

WINDOW = 60.0  # seconds over which speed is measured


class Progress:
    def __init__(self, total_steps: int, *, frame_skip: int, env_steps: int):
        """`env_steps`: where the run starts from."""
        self.total_steps, self.frame_skip = total_steps, frame_skip
        self.live = sys.stdout.isatty()
        self.interval = 1.0 if self.live else 30.0  # seconds between two lines
        self.shown = time.monotonic()
        self.marks = deque([(self.shown, env_steps)])  # (time, env_steps) within the window

    @property
    def steps_per_second(self) -> float:
        """Agent steps a second over the last minute."""
        (first_time, first_steps), (last_time, last_steps) = self.marks[0], self.marks[-1]
        return (last_steps - first_steps) / max(last_time - first_time, 1e-9)

    def update(self, env_steps: int, mean_return: float | None) -> None:
        """Notes where the run is, and shows it when it is time."""
        now = time.monotonic()
        self.marks.append((now, env_steps))
        while now - self.marks[1][0] > WINDOW:
            self.marks.popleft()
        if now - self.shown >= self.interval:
            self.shown = now
            self._show(env_steps, mean_return)

    def _show(self, env_steps: int, mean_return: float | None) -> None:
        speed = self.steps_per_second
        left = (self.total_steps - env_steps) / speed if speed else None
        line = (
            f"{env_steps:,} / {self.total_steps:,} steps  {speed:,.0f} steps/s  {speed * self.frame_skip:,.0f} frames/s  "
            f"mean return {'-' if mean_return is None else f'{mean_return:.1f}'}  ETA {clock(left)}"
        )
        if self.live:
            print(f"\r\x1b[K{line}", end="", flush=True)
        else:
            print(line, flush=True)

    def say(self, message: str) -> None:
        """A line of its own, above the progress line."""
        print(f"\r\x1b[K{message}" if self.live else message, flush=True)


class GamesProgress:
    """A line on stderr about games that are played side by side. Call it after every step; it takes what `play` tells."""

    def __init__(self, games: int, *, name: str = ""):
        """`games`: to be played; `name`: stands before the line."""
        self.games, self.name = games, f"{name}  " if name else ""
        self.live = sys.stderr.isatty()
        self.interval = 1.0 if self.live else 30.0
        self.began = self.shown = time.monotonic()

    def __call__(self, finished: int, steps: int) -> None:
        """`finished`: games that have ended; `steps`: taken in the longest one."""
        now = time.monotonic()
        if now - self.shown >= self.interval:
            self.shown = now
            left = (now - self.began) * (self.games - finished) / finished if finished else None
            line = f"{self.name}{finished} of {self.games} games done, longest {steps:,} steps  ETA {clock(left)}"
            print(
                f"\r\x1b[K{line}" if self.live else line,
                end="" if self.live else "\n",
                file=sys.stderr,
                flush=True,
            )
        if finished == self.games and self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def clock(seconds: float | None) -> str:
    """As in 1:02:03, or - for None."""
    if seconds is None:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
