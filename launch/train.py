"""Trains an A3C LSTM agent on an Atari game.

    python -m launch.train --env Seaquest --head neurocoder --workers 8 --total-steps 32_000_000

Everything of a run lies in one folder: config.json, curves for TensorBoard, checkpoints. One agent step is four emulator
frames. Ctrl-C or SIGTERM ends a run with a last checkpoint; --resume continues it.
"""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from envs.atari import resolve
from launch.checkpoints import list_checkpoints, load_newest
from launch.command_line import Interruption, check_address, fail, require_gpu
from launch.run_folder import RunFolder, default_run_path, software_versions, write_json_atomically

if TYPE_CHECKING:  # torch takes seconds to import, and bad input is refused before
    from agents.a3c.parameter_owner import Snapshot


@dataclass(frozen=True)
class Arguments:
    config: Annotated[A3CConfig, tyro.conf.arg(name="")] = field(default_factory=A3CConfig)
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


PROGRAM = "python -m launch.train"

FIXED = ("env", "head", "head_on", "neurocoder", "hypernet", "optimizer")
"""Settings that decide the shape of what a checkpoint holds: a resumed run keeps them."""


def parse(argv: list[str]) -> Arguments:
    """The arguments, checked; with --resume, the run's own settings are the defaults."""
    arguments = tyro.cli(Arguments, args=argv, prog=PROGRAM, description=__doc__)
    try:
        if arguments.resume is not None:
            saved = _saved_config(arguments.resume)
            arguments = tyro.cli(
                Arguments,
                args=argv,
                default=replace(arguments, config=saved),
                prog=PROGRAM,
                description=__doc__,
            )
            for name in FIXED:
                before, now = getattr(saved, name), getattr(arguments.config, name)
                if before != now:
                    raise ValueError(
                        f"{arguments.resume}: its run has {name} {before!r}, not {now!r}; start a new run"
                    )
        arguments.check()
    except ValueError as error:
        fail(error)
    return arguments


def _saved_config(run: Path) -> A3CConfig:
    try:
        return A3CConfig.from_dict(json.loads((run / "config.json").read_text())["a3c"])
    except FileNotFoundError as error:
        raise ValueError(f"--resume {run}: not the folder of a run, it has no config.json") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--resume {run}: its config.json cannot be used ({error})") from error


def main() -> None:
    arguments = parse(sys.argv[1:])
    config = arguments.config
    try:
        if config.gpus_per_worker and arguments.address is None:
            require_gpu("--gpus-per-worker")
        if arguments.resume is not None:
            folder = RunFolder.open(arguments.resume)
        else:
            folder = RunFolder.create(arguments.run_dir or default_run_path(config.env, config.head))
        with folder:
            snapshot = _restore(folder, config) if arguments.resume is not None else None
            settings = {"a3c": config.to_dict(), "software": software_versions()}
            write_json_atomically(folder.path / "config.json", settings)
            status = train(arguments, folder, snapshot)
    except ValueError as error:
        fail(error)
    raise SystemExit(status)


def _restore(folder: RunFolder, config: A3CConfig) -> "Snapshot":
    """The newest good snapshot of a run. ValueError if there is none, or nothing is left to do."""
    if not list_checkpoints(folder.checkpoints):
        raise ValueError(f"--resume {folder.path}: it has no checkpoint yet; start a new run")
    from launch.a3c_checkpoints import to_snapshot

    snapshot = to_snapshot(load_newest(folder.checkpoints, warn=_warn))
    if snapshot.env_steps >= config.total_steps:
        raise ValueError(
            f"{folder.path} has taken {snapshot.env_steps:,} of its {config.total_steps:,} steps; "
            f"give a larger --total-steps to go on"
        )
    print(f"resuming at {snapshot.env_steps:,} steps; games begin anew")
    return snapshot


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def train(arguments: Arguments, folder: RunFolder, snapshot: "Snapshot | None") -> int:
    """Runs training to its end or to a signal, and plays with the result: the exit status."""
    from agents.errors import TrainingError
    from launch.evaluate import evaluate, show
    from launch.recorder import Recorder

    config, env_steps = arguments.config, snapshot.env_steps if snapshot else 0
    print(f"run folder {folder.path}   curves: tensorboard --logdir {folder.path.parent}")
    print(f"one step is {resolve(config.env).frame_skip} emulator frames", flush=True)
    interruption, failure = Interruption(), None
    try:
        with start_training(config, snapshot, address=arguments.address) as training:
            interruption.listen()  # Ray has put its own handlers there
            recorder = Recorder(
                folder,
                config,
                env_steps=env_steps,
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
        fail(failure or error, status=1)
    interruption.release()

    resume = f"python -m launch.train --resume {folder.path}"
    if failure is not None:
        fail(f"{failure}; continue with {resume}", status=1)
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


if __name__ == "__main__":
    main()
