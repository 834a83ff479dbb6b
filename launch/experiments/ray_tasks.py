"""Many runs of one experiment, each in a folder of its own: one at a time in this process, or side by side as Ray tasks.

A run is its folder, made with a config.json before anything starts. A task that dies with its process is started again and
finds its newest checkpoint there; one that fails with an error stays failed, and the others go on.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agents.errors import TrainingError
from agents.files import write_json_atomically
from agents.runs.checkpoints import list_checkpoints
from launch.command_line.interruption import Interruption

if TYPE_CHECKING:
    from ray.actor import ActorHandle

Tell = Callable[[str], bool]
"""Takes a run's progress line; true if the run shall write its last checkpoint and return."""
Execute = Callable[[Path, Tell], None]
"""Does, or goes on with, the run of a folder. A module's function, since it is sent to other processes."""

RESULT, FAILED = "result.json", "failed.json"  # one of them is in a run's folder when it has ended
RESTARTS = 3  # of a task whose process died
GRACE = 60.0  # seconds that runs have to stop


class Board:
    """One line a run. On a terminal those at work are rewritten in place, below the ended ones; elsewhere each is repeated now
    and then."""

    def __init__(self, runs: Sequence[Path]):
        self.width = max(len(run.name) for run in runs)
        self.waiting = len(runs)
        self.working: dict[str, str] = {}
        self.ended: list[str] = []  # lines not yet printed
        self.live = sys.stdout.isatty()
        self.drawn = 0  # lines at the end of the terminal that are rewritten
        self.shown = -float("inf")

    def update(self, lines: dict[str, str]) -> None:
        """Takes the latest lines of runs at work, and shows them when it is time."""
        self.waiting -= len(lines.keys() - self.working.keys())
        self.working |= lines
        if time.monotonic() - self.shown >= (1.0 if self.live else 30.0):
            self._show()

    def end(self, name: str, how: str) -> None:
        """A run has ended: done, stopped or failed."""
        if name not in self.working:
            self.waiting -= 1
        self.ended.append(f"{name:{self.width}}  {how:7}  {self.working.pop(name, '')}".rstrip())
        self._show()

    def _show(self) -> None:
        self.shown = time.monotonic()
        if self.live and self.drawn:
            print(f"\x1b[{self.drawn}A\x1b[J", end="")
        lines = [f"{name:{self.width}}  {line}" for name, line in self.working.items()]
        lines += [f"{self.waiting} waiting"] if self.waiting else []
        print("\n".join(self.ended + lines), flush=True)
        self.drawn, self.ended = len(lines), []


def run_here(runs: Sequence[Path], execute: Execute, interruption: Interruption) -> dict[str, str]:
    """Does the runs one after another in this process: the error of each that failed, by name."""
    board, failures = Board(runs), {}

    for run in runs:

        def tell(line: str, name: str = run.name) -> bool:
            board.update({name: line})
            return interruption.signal is not None

        failure = attempt(execute, run, tell)
        if failure is not None:
            failures[run.name] = failure
        board.end(run.name, ending(failure, interruption))
        if interruption.signal is not None:
            break
    return failures


def ending(failure: str | None, interruption: Interruption) -> str:
    """In a word, how a run has ended."""
    if failure is not None:
        return "failed"
    return "done" if interruption.signal is None else "stopped"


def run_on_ray(
    runs: Sequence[Path],
    execute: Execute,
    interruption: Interruption,
    *,
    address: str | None,
    gpus_per_run: float,
) -> dict[str, str]:
    """Does the runs as Ray tasks, one core each: the error of each that failed, by name.

    Raises:
        TrainingError: no cluster at `address`, or one that has no room for a run.
    """
    import ray

    from agents.ray_cluster import connect

    connect(address, cpus=os.cpu_count() or 1)
    try:
        interruption.listen()  # Ray has put its own handlers there
        if ray.cluster_resources().get("GPU", 0) < gpus_per_run:
            raise TrainingError(
                f"no node of the Ray cluster has a GPU, but --gpus-per-run is {gpus_per_run:g}"
            )
        mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
        task = ray.remote(num_cpus=1, num_gpus=gpus_per_run, max_retries=RESTARTS)(run_as_task)
        running = {task.remote(execute, run.absolute(), mailbox): run for run in runs}
        board, failures, deadline = Board(runs), {}, float("inf")
        while running and time.monotonic() < deadline:
            done, _ = ray.wait(list(running), timeout=1.0)
            board.update(ray.get(mailbox.read.remote()))
            for reference in done:
                run = running.pop(reference)
                try:
                    failure = ray.get(reference)
                except ray.exceptions.RayError as error:
                    failure = str(error).strip().splitlines()[-1]
                if failure is not None:
                    failures[run.name] = failure
                ray.get(mailbox.forget.remote(run.name))
                board.end(run.name, ending(failure, interruption))
            if interruption.signal is not None and deadline == float("inf"):
                deadline = time.monotonic() + GRACE
                ray.get(mailbox.ask_to_stop.remote())
                for reference, run in list(running.items()):
                    if run.name not in board.working:  # not begun yet
                        ray.cancel(reference)
                        del running[reference]
        return failures
    finally:
        ray.shutdown()


def run_as_task(execute: Execute, run: Path, mailbox: "ActorHandle") -> str | None:
    """In a Ray worker: the error of a run that failed."""
    import torch

    def tell(line: str) -> bool:
        # Not by ray.get: a task that waits there lends its core, and another one would begin on it.
        return mailbox.tell.remote(run.name, line).future().result()

    torch.set_num_threads(1)
    return attempt(execute, run, tell)


def attempt(execute: Execute, run: Path, tell: Tell) -> str | None:
    """Does a run; if it fails, its error, which is left in the run's folder as failed.json.

    Training that failed is told of with the checkpoint that --resume would go on from.
    """
    (run / FAILED).unlink(missing_ok=True)  # of an earlier attempt
    try:
        execute(run, tell)
        return None
    except TrainingError as error:
        good = [checkpoint.name for checkpoint in list_checkpoints(run / "checkpoints")]
        failure = f"{error}, last good checkpoint {good[0] if good else 'none'}"
    except ValueError as error:
        failure = str(error)
    write_json_atomically(run / FAILED, {"error": failure})
    return failure


class Mailbox:
    """An actor between the runs and the terminal."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        self.stop = False

    def tell(self, name: str, line: str) -> bool:
        self.lines[name] = line
        return self.stop

    def read(self) -> dict[str, str]:
        return self.lines

    def forget(self, name: str) -> None:
        """A run has ended."""
        self.lines.pop(name, None)

    def ask_to_stop(self) -> None:
        self.stop = True
