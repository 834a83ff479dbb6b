"""What the commands that train Atari agents share: how a run is begun or resumed, goes on, and ends.

Everything of a run lies in one folder: config.json, curves for TensorBoard, checkpoints. Ctrl-C or SIGTERM ends a run with a
last checkpoint; --resume continues it.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self, TypeVar

import tyro

from agents.a3c.config import A3CConfig
from agents.runs.checkpoints import list_checkpoints, load_newest
from agents.runs.folder import RunFolder, default_run_path, software_versions, write_json_atomically
from envs.atari import AtariSettings, resolve
from launch.command_line import Interruption, check_address, fail

if TYPE_CHECKING:  # torch takes seconds to import, and bad input is refused before
    from agents.a3c.parameter_owner import Snapshot
    from agents.a3c.training import Training

    Start = Callable[[Snapshot | None], Training]


class Config(Protocol):
    """Settings of a run, as its config.json keeps them."""

    @property
    def env(self) -> str: ...
    @property
    def head(self) -> str: ...
    @property
    def total_steps(self) -> int: ...
    def check(self) -> AtariSettings: ...
    def policy(self) -> A3CConfig: ...
    def to_dict(self) -> dict[str, Any]: ...
    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self: ...


@dataclass(frozen=True)
class RunArguments:
    config: Annotated[Any, tyro.conf.Suppress] = None
    """A `Config`: a command puts its own here."""
    run_dir: Path | None = None
    """Folder of a new run; runs/<env>-<head>-<time> if not given."""
    resume: Path | None = None
    """Continue the run in this folder; flags given beside it override its settings."""
    address: str | None = None
    """Join the Ray cluster at this address ("auto": the one running on this machine) instead of starting a local one."""
    checkpoint_every: int = 100_000
    """Agent steps between checkpoints."""
    keep: int = 3
    """Newest checkpoints to keep; the one with the best mean return is kept beside them."""
    evaluate_episodes: int = 10
    """Full games to play with the last checkpoint when training is done; 0 for none."""

    def defaults(self) -> Self:
        """What a new run has where no flag says otherwise. ValueError, in one line, if that cannot be told."""
        return type(self)()

    def check(self) -> None:
        """ValueError, in one line, for a setting out of range."""
        self.config.check()
        if self.run_dir is not None and self.resume is not None:
            raise ValueError(
                "--run-dir and --resume cannot both be given; a resumed run goes on in its own folder"
            )
        if self.address is not None:
            check_address(self.address)
        for flag, value, low in (
            ("--checkpoint-every", self.checkpoint_every, 1),
            ("--keep", self.keep, 1),
            ("--evaluate-episodes", self.evaluate_episodes, 0),
        ):
            if value < low:
                raise ValueError(f"{flag} is {value}; it must be at least {low}")


KEPT = ("checkpoint_every", "keep", "evaluate_episodes")  # of the arguments, by a resumed run

Arguments = TypeVar("Arguments", bound=RunArguments)


@dataclass(frozen=True)
class Command:
    """One of the commands."""

    program: str
    """As typed: python -m launch.train."""
    key: str
    """Of its settings in config.json."""
    fixed: tuple[str, ...]
    """Settings that decide the shape of what a checkpoint holds: a resumed run keeps them."""

    def parse(self, kind: type[Arguments], argv: list[str], description: str | None) -> Arguments:
        """The arguments, checked; with --resume, the run's own settings are the defaults."""
        arguments, _ = tyro.cli(  # for the defaults alone: what is wrong, and --help, is the second one's
            kind, args=argv, prog=self.program, add_help=False, return_unknown_args=True
        )
        try:
            resume = arguments.resume
            defaults = arguments.defaults() if resume is None else self._saved(arguments, resume)
            arguments = tyro.cli(
                kind, args=argv, default=defaults, prog=self.program, description=description
            )
            if resume is not None:
                for name in self.fixed:
                    before, now = getattr(defaults.config, name), getattr(arguments.config, name)
                    if before != now:
                        raise ValueError(
                            f"{resume}: its run has {name} {before!r}, not {now!r}; start a new run"
                        )
            arguments.check()
        except ValueError as error:
            fail(error)
        return arguments

    def _saved(self, arguments: Arguments, run: Path) -> Arguments:
        """The arguments with the settings that a run has in its config.json."""
        try:
            saved = json.loads((run / "config.json").read_text())
            if self.key not in saved:
                raise ValueError(f"it is not of {self.program}")
            kept: dict[str, Any] = {name: int(value) for name, value in dict(saved.get("run", {})).items()}
            return replace(arguments, config=type(arguments.config).from_dict(saved[self.key]), **kept)
        except FileNotFoundError as error:
            raise ValueError(f"--resume {run}: not the folder of a run, it has no config.json") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"--resume {run}: its config.json cannot be used ({error})") from error

    def carry_out(self, arguments: RunArguments, config: Config, start: "Start") -> int:
        """Begins or resumes a run, and trains: the exit status. ValueError if that cannot be."""
        if arguments.resume is not None:
            folder = RunFolder.open(arguments.resume)
        else:
            folder = RunFolder.create(arguments.run_dir or default_run_path(config.env, config.head))
        with folder:
            snapshot = restore(folder, config.total_steps) if arguments.resume is not None else None
            return self._train(arguments, config, folder, snapshot, start)

    def _train(
        self,
        arguments: RunArguments,
        config: Config,
        folder: RunFolder,
        snapshot: "Snapshot | None",
        start: "Start",
    ) -> int:
        """Runs training to its end or to a signal, and plays with the result."""
        from agents.errors import TrainingError
        from agents.runs.recorder import Recorder
        from launch.evaluate import evaluate, show

        print(f"run folder {folder.path}   curves: tensorboard --logdir {folder.path.parent}")
        print(f"one step is {resolve(config.env).frame_skip} emulator frames", flush=True)
        interruption, failure = Interruption(), None
        try:
            with start(snapshot) as training:
                interruption.listen()  # Ray has put its own handlers there
                kept = {name: getattr(arguments, name) for name in KEPT}
                settings = {self.key: config.to_dict(), "run": kept, "software": software_versions()}
                write_json_atomically(folder.path / "config.json", settings)
                recorder = Recorder(
                    folder,
                    config.to_dict(),
                    config.policy(),
                    env_steps=snapshot.env_steps if snapshot else 0,
                    checkpoint_every=arguments.checkpoint_every,
                    keep=arguments.keep,
                )
                try:
                    while not training.finished and interruption.signal is None:
                        training.advance()
                        recorder.look(training)
                except TrainingError as error:
                    failure = error
                checkpoint = recorder.finish(training)
        except TrainingError as error:  # it did not start, or its state is lost
            failure, checkpoint = failure or error, None
        interruption.release()

        resume = f"{self.program} --resume {folder.path}"
        if failure is not None:
            way_on = f"; continue with {resume}" if list_checkpoints(folder.checkpoints) else ""
            fail(f"{failure}{way_on}", status=1)
        if checkpoint is None:
            fail(
                f"{folder.path}: the last checkpoint could not be written; make room and continue with {resume}",
                status=1,
            )
        if interruption.signal is not None:
            print(f"stopped; continue with {resume}")
            return interruption.exit_status
        if arguments.evaluate_episodes:
            show(evaluate(checkpoint, episodes=arguments.evaluate_episodes))
        print(
            f"\nwatch     python -m launch.evaluate {folder.path} --episodes 1 --video {folder.path}/game.mp4\n"
            f"evaluate  python -m launch.evaluate {folder.path} --episodes 30\n"
            f"resume    {resume} --total-steps {2 * config.total_steps:_}"
        )
        return 0


def restore(folder: RunFolder, total_steps: int) -> "Snapshot":
    """The newest good snapshot of a run. ValueError if there is none, or nothing is left to do."""
    if not list_checkpoints(folder.checkpoints):
        raise ValueError(
            f"--resume {folder.path}: it has no checkpoint yet; start it anew, with --run-dir {folder.path}"
        )
    from agents.runs.snapshots import to_snapshot

    snapshot = to_snapshot(load_newest(folder.checkpoints, warn=_warn))
    if snapshot.env_steps >= total_steps:
        raise ValueError(
            f"{folder.path} has taken {snapshot.env_steps:,} of its {total_steps:,} steps; "
            f"give a larger --total-steps to go on"
        )
    print(f"resuming at {snapshot.env_steps:,} steps; games begin anew")
    return snapshot


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)
