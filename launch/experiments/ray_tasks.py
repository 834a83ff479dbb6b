"""Many runs of one experiment: one at a time in this process, or side by side as Ray tasks.

A run is its folder, made with a config.json before anything starts. A task that dies with its process is started again
and finds its newest checkpoint there. A task that fails with an error stays failed, and the others continue.

Sweeps are trials of Ray Tune instead (`launch.experiments.tune_trial`), because their runs have several actors each
and need placement groups.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agents.errors import TrainingError
from agents.files import write_json_atomically
from agents.runs.checkpoints import list_checkpoints
from agents.runs.folder import FAILED
from launch.experiments.board import Board
from launch.experiments.interruption import Interruption

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

# Seconds between two reports of a run.
REPORT_SECONDS = 1.0
# Restarts of a task whose process died.
RESTARTS = 3
# Seconds that runs have to stop.
GRACE = 60.0


class Progress:
    """The link between a run and its command. This one is silent and never stops the run."""

    def report(self, line: str) -> None:
        """Takes the run's latest progress line."""

    def warn(self, line: str) -> None:
        """Takes a line about something that was lost. The run goes on."""

    def should_stop(self) -> bool:
        """Whether the run should write its last checkpoint and return. It is asked at every step."""
        return False


Execute = Callable[[Path, Progress], None]
"""Starts or continues the run of a folder. A module's function, since it is sent to other processes."""


def run_here(runs: Sequence[Path], execute: Execute, interruption: Interruption) -> dict[str, str]:
    """Does the runs one after another in this process. Returns the error of each that failed, by name."""
    board, failures = Board(runs), {}
    for run in runs:
        failure = attempt(execute, run, ProgressHere(board, run.name, interruption))
        if failure is not None:
            failures[run.name] = failure
        board.end(run.name, ending(failure, interruption))
        if interruption.signal is not None:
            break
    return failures


class ProgressHere(Progress):
    """The link between a run in this process and the board."""

    def __init__(self, board: Board, name: str, interruption: Interruption):
        self.board, self.name, self.interruption = board, name, interruption

    def report(self, line: str) -> None:
        self.board.update({self.name: line})

    def warn(self, line: str) -> None:
        self.board.warn(self.name, line)

    def should_stop(self) -> bool:
        return self.interruption.signal is not None


def ending(failure: str | None, interruption: Interruption) -> str:
    """Says in a word how a run has ended."""
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
    """Does the runs as Ray tasks, one core each. Returns the error of each that failed, by name.

    Raises:
        TrainingError: no cluster at `address`, or one that has no room for a run.
    """
    import ray

    from agents.ray_cluster import available_cores, connect

    with interruption.joining(address):
        connection = connect(address, cpus=available_cores())
    with connection:
        if interruption.signal is not None:  # Ray may have taken a while to start
            return {}
        if ray.cluster_resources().get("GPU", 0) < gpus_per_run:
            raise TrainingError(
                f"no node of the Ray cluster has a GPU, but --gpus-per-run is {gpus_per_run:g}"
            )
        mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
        task = ray.remote(num_cpus=1, num_gpus=gpus_per_run, max_retries=RESTARTS)(run_as_task)
        tasks = {task.remote(execute, run.absolute(), mailbox): run.name for run in runs}
        return watch(tasks, mailbox, Board(runs), interruption)


def watch(
    tasks: dict["ObjectRef", str], mailbox: "ActorHandle", board: Board, interruption: Interruption
) -> dict[str, str]:
    """Shows the tasks until all have ended, or stops them after a signal. Returns the errors, by name of the run."""
    import ray

    failures, deadline = {}, float("inf")
    while tasks and time.monotonic() < deadline:
        ended, _ = ray.wait(list(tasks), timeout=1.0)
        lines, warnings = ray.get(mailbox.read.remote())
        for name, line in warnings:
            board.warn(name, line)
        board.update(lines)
        for task in ended:
            name, failure = tasks.pop(task), outcome(task)
            if failure is not None:
                failures[name] = failure
            ray.get(mailbox.forget.remote(name))
            board.end(name, ending(failure, interruption))
        if interruption.signal is not None and deadline == float("inf"):
            deadline = time.monotonic() + GRACE
            stop(tasks, mailbox, board)
    for name in tasks.values():
        board.warn(
            name, f"has not stopped within {GRACE:.0f} seconds; it continues from its newest checkpoint"
        )
    return failures


def outcome(task: "ObjectRef") -> str | None:
    """Returns the error of an ended task, which may be the death of its process. None if the run did not fail."""
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        return str(error).strip().splitlines()[-1]


def stop(tasks: dict["ObjectRef", str], mailbox: "ActorHandle", board: Board) -> None:
    """Asks the runs to stop, and cancels those that have not begun."""
    import ray

    ray.get(mailbox.ask_to_stop.remote())
    for task, name in list(tasks.items()):
        if name not in board.running:
            ray.cancel(task)
            del tasks[task]
    if tasks:
        print(
            f"waiting up to {GRACE:.0f} seconds for the last checkpoints of {', '.join(tasks.values())}",
            flush=True,
        )


def run_as_task(execute: Execute, run: Path, mailbox: "ActorHandle") -> str | None:
    """Does a run in a Ray worker. Returns the error of a run that failed."""
    import torch

    torch.set_num_threads(1)
    return attempt(execute, run, ProgressOnRay(mailbox, run.name))


class ProgressOnRay(Progress):
    """The link between a run in a Ray worker and the mailbox. One remote call reports, and asks whether to stop."""

    def __init__(self, mailbox: "ActorHandle", name: str):
        self.mailbox, self.name, self.stop = mailbox, name, False
        self.line, self.reported = "", time.monotonic()

    def report(self, line: str) -> None:
        self.line, self.reported = line, time.monotonic()
        # Not by ray.get: a task that waits there lends its core, and another task would begin on that core.
        self.stop = self.mailbox.report.remote(self.name, line).future().result()

    def warn(self, line: str) -> None:
        self.mailbox.warn.remote(self.name, line).future().result()

    def should_stop(self) -> bool:
        if not self.stop and time.monotonic() - self.reported >= REPORT_SECONDS:
            self.report(self.line)
        return self.stop


class Mailbox:
    """An actor between the runs and the terminal."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        self.warnings: list[tuple[str, str]] = []
        self.stop = False

    def report(self, name: str, line: str) -> bool:
        """Takes a run's progress line. Returns whether the run should stop."""
        self.lines[name] = line
        return self.stop

    def warn(self, name: str, line: str) -> None:
        """Takes a warning of a run."""
        self.warnings.append((name, line))

    def read(self) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """Returns the latest line of every running run by name, and name and line of each warning that is new."""
        warnings, self.warnings = self.warnings, []
        return self.lines, warnings

    def forget(self, name: str) -> None:
        """Drops the line of a run that has ended."""
        self.lines.pop(name, None)

    def ask_to_stop(self) -> None:
        """Answers every later report by asking the run to stop."""
        self.stop = True


def attempt(execute: Execute, run: Path, progress: Progress) -> str | None:
    """Does a run. Returns the error of a run that failed, and leaves it in the run's folder as failed.json.

    If training failed, the error names the checkpoint from which --resume would continue.
    """
    # An earlier attempt may have left one.
    (run / FAILED).unlink(missing_ok=True)
    try:
        execute(run, progress)
        return None
    except TrainingError as error:
        checkpoints = [checkpoint.name for checkpoint in list_checkpoints(run / "checkpoints")]
        failure = f"{error}; last good checkpoint: {checkpoints[0] if checkpoints else 'none'}"
    except ValueError as error:
        failure = str(error)
    except OSError as error:
        failure = f"{error}; make room and continue by --resume"
    # A full disk may be the failure.
    with suppress(OSError):
        write_json_atomically(run / FAILED, {"error": failure})
    return failure
