"""Arguments and course of the commands with many runs, launch.supervised and launch.continual."""

import json
import re
import shlex
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from agents.errors import TrainingError
from agents.runs.folder import new_folder
from envs.images import data_folder, ensure_files
from launch.command_line.errors import check_address, check_paths, fail, has_gpu, require_gpu, typed
from launch.command_line.flags import given_flags, settings_of
from launch.command_line.parsing import HELP, read_arguments
from launch.experiments.folder import make_runs, resumed_runs
from launch.experiments.interruption import Interruption, unwinding
from launch.experiments.ray_tasks import Execute, run_here, run_on_ray
from neurocoder.checks import check_known, check_not_negative

MACHINE_FLAGS = {
    "--data-dir": "data",
    "--device": "device",
    "--gpus-per-run": "device",
    "--checkpoint-seconds": "checkpoint_seconds",
}
"""The flags that belong to this machine, not to a run, and the entry of config.json that each decides."""
OBEYED_WITH_RESUME = ("--resume", "--address", *MACHINE_FLAGS)


@dataclass(frozen=True)
class Placement:
    """Where runs are kept and where they compute."""

    run_dir: Path | None = None
    """Folder of the runs. By default a new folder in runs/. New runs may join those in a folder."""
    tag: str | None = None
    """A word before the names of these runs, so that runs with other settings can join a folder."""
    resume: Path | None = None
    """Continue the unfinished runs in this folder, with their own settings."""
    data_dir: Path | None = None
    """Folder of the data sets, which are downloaded if missing. By default NEUROCODER_DATA, else data/."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is a GPU."""
    gpus_per_run: float = 0.0
    """Share of a GPU that each run takes if there are several."""
    address: str | None = None
    """Join the Ray cluster at this address. "auto" is the one on this machine. All its nodes must see the folders."""

    def label(self, *parts: str | None) -> str:
        """Names the runs of one configuration. Raises ValueError for a tag that is no word."""
        if self.tag is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._]*", self.tag):
            raise ValueError(
                f"--tag {self.tag!r}: it becomes part of folders' names; use letters, digits, '.' and '_'"
            )
        return "-".join(part for part in (self.tag, *parts) if part)

    def resolve_device(self) -> str:
        """Returns cpu or cuda. Raises ValueError for another device, or for a GPU where there is none."""
        check_known("--device", self.device, ("auto", "cpu", "cuda"))
        check_not_negative("--gpus-per-run", self.gpus_per_run)
        # This machine may have no GPU where the cluster's nodes do.
        if self.address is not None:
            check_address(self.address)
            return "cuda" if self.gpus_per_run or self.device == "cuda" else "cpu"
        if self.device == "cuda" or self.gpus_per_run:
            cuda = self.device == "cuda"
            require_gpu(
                *(("--device cuda", "--device cpu") if cuda else ("--gpus-per-run", "--gpus-per-run 0"))
            )
            return "cuda"
        return "cuda" if self.device == "auto" and has_gpu() else "cpu"


class ExperimentArguments(ABC):
    """Base of the arguments of a command. A command's dataclass has the fields below, and its own."""

    program: ClassVar[str]
    """The command as it is typed."""
    key: ClassVar[str]
    """The key of a run's settings in its config.json."""
    config: ClassVar[Any]
    """The class of a run's settings."""
    settings: Any
    """Those settings of `config` that have flags of their own. A preset gives their defaults."""
    placement: Placement

    @property
    @abstractmethod
    def subject(self) -> str | None:
        """The positional argument: what is learnt. None if it is not given."""

    @abstractmethod
    def first_preset(self) -> tuple[str, Any]:
        """Returns what decides the preset of the first run, as it is typed, and the settings of that preset.

        Raises ValueError for unknown names.
        """

    @abstractmethod
    def expand(self, argv: list[str]) -> dict[str, tuple[str, Any]]:
        """Returns label and settings of every run, by name. Raises ValueError, in one line, for what cannot be."""

    @abstractmethod
    def folder_words(self, config: Any) -> tuple[str, str]:
        """Returns two words that name the folder of the runs."""

    def machine(self) -> dict[str, Any]:
        """Returns the entries of config.json that belong to this machine. Raises ValueError for what cannot be."""
        data = data_folder(self.placement.data_dir).absolute()
        return {"data": str(data), "device": self.placement.resolve_device()}


Arguments = TypeVar("Arguments", bound=ExperimentArguments)


def read(kind: type[Arguments], argv: list[str], description: str | None) -> Arguments:
    """Reads a command line. With --help it prints the defaults for the task, layer and preset on the command line.

    Raises ValueError for an unknown one of these.
    """
    if HELP.isdisjoint(argv):
        return read_arguments(kind, argv, program=kind.program)
    given = read_arguments(kind, [word for word in argv if word not in HELP], program=kind.program)
    words, preset = given.first_preset()
    return read_arguments(
        kind,
        argv,
        program=kind.program,
        description=f"{description}\n\nThe defaults are those of: {words}",
        default=kind(settings=settings_of(preset, type(given.settings))),  # type: ignore[call-arg]
    )


def main(kind: type[ExperimentArguments], description: str | None) -> int:
    """Makes or resumes the runs that a command line asks for, and carries them out. Returns the exit status."""
    argv = sys.argv[1:]
    try:
        arguments = read(kind, argv, description)
        placement = arguments.placement
        check_paths(placement)
        if placement.resume is not None:
            experiment = placement.resume
            runs, changes = resume(arguments, experiment, argv)
        else:
            experiment, runs = new_runs(arguments, argv)
            changes = {}
    except ValueError as error:
        fail(error)
    if not runs:
        from launch.results.experiment import conclude

        conclude(experiment)
        return 0
    # Before torch is imported, which takes seconds: a signal is noted from here on.
    interruption = Interruption()
    from launch.experiments.run import execute, prepare

    try:
        with interruption.raised(f"continue with {typed(arguments.program, '--resume', experiment)}"):
            prepare(runs[0], changes)
    except ValueError as error:
        fail(error)
    return carry_out(arguments, experiment, runs, partial(execute, changes=changes), interruption)


def new_runs(arguments: ExperimentArguments, argv: list[str]) -> tuple[Path, list[Path]]:
    """Makes the folders of all runs. Raises ValueError, before that, for a wrong setting or data that are missing."""
    runs = arguments.expand(argv)
    machine = arguments.machine()
    config = next(iter(runs.values()))[1]
    if config.data_set is not None:
        with unwinding():
            ensure_files(config.data_set, Path(machine["data"]))
    experiment = arguments.placement.run_dir or new_folder(*arguments.folder_words(config))
    described = {
        name: {"label": label, arguments.key: config.to_dict(), **machine}
        for name, (label, config) in runs.items()
    }
    return experiment, make_runs(experiment, described)


def resume(
    arguments: ExperimentArguments, experiment: Path, argv: list[str]
) -> tuple[list[Path], dict[str, Any]]:
    """Finds the unfinished runs, which may be none, and the entries of their config.json that the command line replaces.

    Raises:
        ValueError: a flag that cannot be obeyed, or runs that cannot be continued.
    """
    given = given_flags(argv)
    refused = [word for word in argv for flag in given_flags([word]) if flag not in OBEYED_WITH_RESUME]
    if arguments.subject is not None:
        refused.insert(0, arguments.subject)
    if refused:
        raise ValueError(f"--resume: the runs keep their own settings; leave out {' '.join(refused)}")
    runs = resumed_runs(
        experiment, lambda described: arguments.config.from_dict(described[arguments.key]).check()
    )
    machine = arguments.machine()
    changes = {MACHINE_FLAGS[flag]: machine[MACHINE_FLAGS[flag]] for flag in given if flag in MACHINE_FLAGS}
    for run in runs:
        described = json.loads((run / "config.json").read_text()) | changes
        if described["device"] == "cuda" and arguments.placement.address is None and not has_gpu():
            raise ValueError(
                f"--resume {experiment}: {run.name} was made on a GPU, but PyTorch sees none here; give --device cpu"
            )
    return runs, changes


def carry_out(
    arguments: ExperimentArguments,
    experiment: Path,
    runs: list[Path],
    execute: Execute,
    interruption: Interruption,
) -> int:
    """Does the runs and shows the results of the experiment. Returns the exit status."""
    # Imported here, because a wrong command line should be refused at once.
    from launch.results.experiment import conclude

    interruption = Interruption()
    placement = arguments.placement
    print(
        f"run folder {experiment}   curves: tensorboard --logdir {shlex.quote(str(experiment))}", flush=True
    )
    advice = f"continue with {typed(arguments.program, '--resume', experiment)}"
    try:
        if len(runs) == 1 and placement.address is None:
            failures = run_here(runs, execute, interruption)
        else:
            failures = run_on_ray(
                runs, execute, interruption, address=placement.address, gpus_per_run=placement.gpus_per_run
            )
    except TrainingError as error:
        fail(f"{error}; {advice}", status=1)
    interruption.release()
    try:
        conclude(experiment)
    except OSError as error:
        failures[str(experiment)] = f"its tables and its picture cannot be written ({error}); make room"
    for name, failure in failures.items():
        print(f"error: {name}: {failure}", file=sys.stderr)
    if interruption.signal is not None:
        print(f"stopped; {advice}")
        return interruption.exit_status
    return 1 if failures else 0
