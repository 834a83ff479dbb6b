"""What the commands that train Atari agents share: how a run is begun or resumed, goes on, and ends.

Everything of a run lies in one folder: config.json, curves for TensorBoard, checkpoints. Ctrl-C or SIGTERM ends a run with a
last checkpoint; --resume continues it.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import tyro

from agents.runs.best import find_checkpoints
from agents.runs.checkpoints import list_checkpoints
from agents.runs.folder import default_run_path
from agents.runs.recording import Recording
from agents.stored_settings import read_settings
from launch.command_line.errors import check_address, fail
from launch.command_line.interruption import Interruption
from launch.results.evaluation import show

if TYPE_CHECKING:
    from agents.a3c.config import A3CConfig
    from agents.rllib.config import RLlibConfig


@dataclass(frozen=True)
class RunArguments:
    config: Annotated[Any, tyro.conf.Suppress] = None
    """An `A3CConfig` or `RLlibConfig`: a command puts its own here."""
    run_dir: Path | None = None
    """Folder of a new run; runs/<env>-<head>-<time> if not given."""
    resume: Path | None = None
    """Continue the run in this folder; flags given beside it override its settings."""
    address: str | None = None
    """Join the Ray cluster at this address ("auto": the one running on this machine) instead of starting a local one."""
    weights_of: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Start from the weights of this run or checkpoint folder, of any game. Output layers of another size start fresh."""
    recording: Annotated[Recording, tyro.conf.arg(name="")] = field(default_factory=Recording)

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
        if self.weights_of is not None and self.resume is not None:
            raise ValueError("--from and --resume cannot both be given; a resumed run has weights of its own")
        if self.weights_of is not None:
            find_checkpoints(self.weights_of, best=False)
        if self.address is not None:
            check_address(self.address)
        self.recording.check()


Arguments = TypeVar("Arguments", bound=RunArguments)


@dataclass(frozen=True)
class Command:
    """One of the commands."""

    program: str
    """As typed: python -m launch.train."""
    key: str
    """Of its settings in config.json."""

    def parse(self, kind: type[Arguments], argv: list[str], description: str | None) -> Arguments:
        """The arguments, checked; with --resume, the run's own settings are the defaults."""
        # The first pass only finds the defaults. Errors and --help come from the second one.
        arguments, _ = tyro.cli(kind, args=argv, prog=self.program, add_help=False, return_unknown_args=True)
        try:
            resume = arguments.resume
            defaults = arguments.defaults() if resume is None else self._saved(arguments, resume)
            arguments = tyro.cli(
                kind, args=argv, default=defaults, prog=self.program, description=description
            )
            if resume is not None:
                for name in arguments.config.fixed:
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
            return replace(
                arguments,
                config=type(arguments.config).from_dict(saved[self.key]),
                recording=read_settings(Recording, saved.get("run", {})),
            )
        except FileNotFoundError as error:
            raise ValueError(f"--resume {run}: not the folder of a run, it has no config.json") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"--resume {run}: its config.json cannot be used ({error})") from error

    def carry_out(self, arguments: RunArguments, config: "A3CConfig | RLlibConfig") -> int:
        """Starts or resumes a run, and trains: the exit status. ValueError if that cannot be."""
        from agents.errors import TrainingError
        from agents.runs.training import train

        folder = arguments.resume or arguments.run_dir or default_run_path(config.env, config.head)
        resume = f"{self.program} --resume {folder}"
        interruption = Interruption()

        def callback(env_steps: int, metrics: object) -> bool:
            if metrics is None and env_steps >= config.total_steps:
                interruption.release()  # what is left are the last games
            else:
                interruption.listen()  # Ray puts its own handlers there
            return interruption.signal is not None

        try:
            result = train(
                config,
                folder,
                callback,
                recording=arguments.recording,
                resume=arguments.resume is not None,
                weights_of=arguments.weights_of,
                address=arguments.address,
            )
        except TrainingError as error:
            way_on = f"; continue with {resume}" if list_checkpoints(folder / "checkpoints") else ""
            fail(f"{error}{way_on}", status=1)
        if result.stopped:
            print(f"stopped; continue with {resume}")
            return interruption.exit_status
        if result.evaluation is not None:
            show(result.evaluation)
        print(
            f"\nwatch     python -m launch.evaluate {folder} --episodes 1 --video {folder}/game.mp4\n"
            f"evaluate  python -m launch.evaluate {folder} --episodes 30\n"
            f"resume    {resume} --total-steps {2 * config.total_steps:_}"
        )
        return 0
