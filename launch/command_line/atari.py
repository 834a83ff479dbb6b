"""What the commands that train Atari agents share: how they are read, and how a run starts, resumes and ends."""

import json
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, NoReturn, Self, TypeVar

import tyro

from agents.actor_critic.config import ActorCriticConfig
from agents.flags import flag
from agents.runs.best import find_checkpoints
from agents.runs.checkpoints import list_checkpoints
from agents.runs.folder import new_folder
from agents.runs.recording import Recording
from agents.stored_settings import read_settings
from launch.command_line.errors import check_address, check_paths, fail, require_gpu, typed
from launch.command_line.flags import given_flags, refuse_unused_layers
from launch.command_line.parsing import read_arguments, read_known_arguments
from launch.experiments.interruption import Interruption, Stopped
from launch.results.evaluation import show

if TYPE_CHECKING:
    from agents.actor_critic.training import Metrics
    from agents.runs.training import RunResult

Config = TypeVar("Config", bound=ActorCriticConfig)

EVALUATE = "python -m launch.evaluate"


@dataclass(frozen=True, kw_only=True)
class RunArguments(Generic[Config]):
    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Folder of a new run. Default: runs/<env>-<head>-<time>."""
    resume: Path | None = None
    """Continue the run in this folder. Other flags override its settings."""
    address: str | None = None
    """Join the Ray cluster at this address ("auto": the one on this machine) instead of starting a local one."""
    weights_of: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Start from the weights of this run or checkpoint, of any game. Output layers of another size start fresh."""
    recording: Annotated[Recording, tyro.conf.arg(name="")] = field(default_factory=Recording)

    def defaults(self) -> Self:
        """Returns the arguments of a new run where no flag says otherwise. Raises ValueError if there are none."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises ValueError for a setting out of range, or for arguments that exclude each other."""
        self.config.check()
        check_paths(self)
        if self.run_dir is not None and self.resume is not None:
            raise ValueError("--run-dir and --resume cannot both be given; a resumed run stays in its folder")
        if self.weights_of is not None and self.resume is not None:
            raise ValueError("--from and --resume cannot both be given; a resumed run has weights of its own")
        if self.weights_of is not None:
            find_checkpoints(self.weights_of, best=False)
        if self.address is not None:
            check_address(self.address)
        self.recording.check()


Arguments = TypeVar("Arguments", bound=RunArguments)


def main(program: str, kind: type[RunArguments], description: str | None, *, gpus: str) -> NoReturn:
    """Does what a command line asks for, and exits.

    Args:
        program: the command as it is typed, such as "python -m launch.train".
        gpus: the setting that asks for GPUs.
    """
    arguments = parse(program, kind, sys.argv[1:], description)
    try:
        if getattr(arguments.config, gpus) and arguments.address is None:
            require_gpu(flag(gpus), f"{flag(gpus)} 0")
        status = carry_out(program, arguments)
    except ValueError as error:
        fail(error)
    raise SystemExit(status)


def parse(program: str, kind: type[Arguments], argv: list[str], description: str | None) -> Arguments:
    """Reads and checks the arguments. With --resume, the settings of the run are the defaults."""
    # The first pass only finds the defaults.
    first, _ = read_known_arguments(kind, argv, program=program)
    try:
        defaults = first.defaults() if first.resume is None else saved_arguments(program, first, first.resume)
        arguments = read_arguments(kind, argv, program=program, description=description, default=defaults)
        if arguments.resume is not None:
            if "--preset" in given_flags(argv):
                raise ValueError("--preset: a resumed run has its own settings; leave it out with --resume")
            check_fixed(arguments.resume, defaults.config, arguments.config)
        refuse_unused_layers(argv, [arguments.config.head])
        arguments.check()
    except ValueError as error:
        fail(error)
    return arguments


def saved_arguments(program: str, arguments: Arguments, run: Path) -> Arguments:
    """Returns the arguments with the settings in the config.json of a run. Raises ValueError if it cannot be used."""
    config = type(arguments.config)
    try:
        saved = json.loads((run / "config.json").read_text())
        if config.key not in saved:
            raise ValueError(f"it is not of {program}")
        return replace(
            arguments,
            config=config.from_dict(saved[config.key]),
            recording=read_settings(Recording, saved.get("run", {})),
        )
    except FileNotFoundError as error:
        raise ValueError(f"--resume {run}: not the folder of a run, it has no config.json") from error
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"--resume {run}: its config.json cannot be used ({error})") from error


def check_fixed(run: Path, saved: ActorCriticConfig, now: ActorCriticConfig) -> None:
    """Raises ValueError if a setting differs that decides the shape of what the checkpoints hold."""
    after = fixed_settings(now)
    for name, before in fixed_settings(saved).items():
        if before != after[name]:
            raise ValueError(
                f"{run}: its run has {flag(name)} {before!r}, not {after[name]!r}; start a new run"
            )


def fixed_settings(config: ActorCriticConfig) -> dict[str, object]:
    """Returns the settings that a resumed run keeps. Those of layers are named "neurocoder.slots"."""
    settings: dict[str, object] = {}
    for name in config.fixed:
        value = getattr(config, name)
        if is_dataclass(value):
            settings |= {f"{name}.{field.name}": getattr(value, field.name) for field in fields(value)}
        else:
            settings[name] = value
    return settings


def carry_out(program: str, arguments: RunArguments) -> int:
    """Starts or resumes a run, and trains. Returns the exit status. Raises ValueError if it cannot start."""
    # Before torch and Ray are imported, which takes seconds: a signal is noted from here on.
    interruption = Interruption()
    from agents.errors import TrainingError
    from agents.runs.training import train

    config, address = arguments.config, arguments.address
    interruption = Interruption()
    folder = arguments.resume or arguments.run_dir or new_folder(config.env, config.head)
    resume = typed(program, "--resume", folder, *(["--address", address] if address else []))

    def callback(env_steps: int, metrics: "Metrics | None") -> bool:
        if metrics is None and env_steps >= config.total_steps:
            interruption.release()  # only the last games remain
        else:
            interruption.listen()  # from now on the run can be saved
        return interruption.signal is not None

    try:
        with interruption.joining(address):
            result = train(
                config,
                folder,
                callback,
                recording=arguments.recording,
                resume=arguments.resume is not None,
                weights_of=arguments.weights_of,
                address=address,
            )
    except (ValueError, Stopped):
        remove_unused(folder)
        raise
    except TrainingError as error:
        advice = _advice(folder, resume)
        remove_unused(folder)
        fail(f"{error}; {advice}", status=1)
    further = f"{resume} --total-steps {2 * config.total_steps:_}"
    if result.stopped:
        print(f"stopped; continue with {resume if result.env_steps < config.total_steps else further}")
        return interruption.exit_status
    show_result(result, further)
    return 0


def _advice(folder: Path, resume: str) -> str:
    """Says how to go on after training has failed."""
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return f"there is no checkpoint yet: start again with --run-dir {shlex.quote(str(folder))}"
    return f"continue from {checkpoints[0].name} with {resume}"


def remove_unused(folder: Path) -> None:
    """Removes the folder of a run that could not start."""
    with suppress(OSError):
        (folder / "checkpoints").rmdir()
        (folder / "run.lock").unlink()
        folder.rmdir()


def show_result(result: "RunResult", resume: str) -> None:
    """Prints the score of a run that has ended, and what to type next."""
    if result.evaluation is not None:
        show(result.evaluation)
    print(
        f"\nwatch     {typed(EVALUATE, result.folder, '--episodes', 1, '--video', result.folder / 'game.mp4')}\n"
        f"evaluate  {typed(EVALUATE, result.folder, '--episodes', 30)}\n"
        f"resume    {resume}"
    )
