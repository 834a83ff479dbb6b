"""Trains A3C agents with many settings, as trials of Ray Tune, and compares them.

    python -m launch.sweep --env Pong,Seaquest --head mlp,neurocoder --seeds 3 --learning-rate 1e-4,7e-4 --workers 2
    --total-steps 2_000_000

Every combination is a run in a folder of its own, which launch.evaluate and launch.plot read like any other. Any
other setting of launch.train (--workers, --total-steps, --rollout-steps, ...) holds for every run. A run that fails
restarts from its newest checkpoint. --resume continues the runs that are not finished. The table of finished runs is
kept in results.md and their scores in results.csv.
"""

import itertools
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.a3c.config import A3CConfig
from agents.a3c.presets import preset
from agents.errors import TrainingError
from agents.runs.folder import FAILED, RESULT, new_folder
from agents.runs.recording import Recording
from launch.command_line.command import command
from launch.command_line.errors import check_address, check_paths, fail, typed
from launch.command_line.flags import given_flags, refuse_unused_layers
from launch.command_line.parsing import HELP, read_arguments, read_known_arguments
from launch.experiments.folder import make_runs, resumed_runs, seed_range
from launch.experiments.interruption import Interruption
from launch.results.sweep import conclude
from neurocoder.checks import check_at_least

PROGRAM = "python -m launch.sweep"
RECORDING = Recording(evaluate_episodes=30)
OBEYED_ON_RESUME = {"--resume", "--address", "--retries"}


@dataclass(frozen=True)
class Arguments:
    env: str = "Pong"
    """Games, separated by commas."""
    head: str = "mlp,neurocoder"
    """Output layers of the policy, separated by commas: mlp, neurocoder, hypernet, film, moe, nsm, lowrank."""
    learning_rate: str | None = None
    """Learning rates, separated by commas. Default: the preset's."""
    preset: str = "paper"
    """Settings where no flag gives one: paper or two-cores, as for launch.train."""
    seeds: int = 3
    """Runs of each combination, with seeds from --first-seed on."""
    first_seed: int = 1
    """First seed."""
    run_dir: Path | None = None
    """Folder of the sweep. Default: runs/sweep-<time>."""
    resume: Path | None = None
    """Continue the unfinished runs in this folder, with their own settings."""
    address: str | None = None
    """Join the Ray cluster at this address ("auto": the one on this machine). All its nodes must see the folder."""
    retries: int = 3
    """Number of times that a run which fails is restarted."""
    weights_of: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Start every run from the weights of this run or checkpoint folder. Output layers of another size start fresh."""
    recording: Annotated[Recording, tyro.conf.arg(name="")] = RECORDING

    def check(self) -> None:
        """Raises ValueError for a setting out of range."""
        check_at_least("--retries", self.retries, 0)
        self.recording.check()
        # A sweep compares what the last games score.
        check_at_least("--evaluate-episodes", self.recording.evaluate_episodes, 1)
        if self.address is not None:
            check_address(self.address)


@command
def main() -> None:
    argv = sys.argv[1:]
    if not HELP.isdisjoint(argv):
        read_arguments(Arguments, argv, program=PROGRAM, description=__doc__)
    arguments, common = read_known_arguments(Arguments, argv, program=PROGRAM)
    try:
        arguments.check()
        check_paths(arguments)
        if arguments.resume is not None:
            check_resume(argv)
            sweep = arguments.resume
            runs = resumed_runs(sweep, lambda run: A3CConfig.from_dict(run["a3c"]).check())
        else:
            sweep, runs = new_runs(arguments, common)
    except ValueError as error:
        fail(error)
    if not runs:
        conclude(sweep)
        return
    print(f"run folder {sweep}   curves: tensorboard --logdir {shlex.quote(str(sweep))}", flush=True)
    # Before Ray is imported, which takes seconds: a signal is noted from here on.
    interruption = Interruption()
    from launch.experiments.tune_trial import run_on_tune

    advice = f"continue with {typed(PROGRAM, '--resume', sweep)}"
    try:
        if interruption.signal is None:
            run_on_tune(runs, interruption, address=arguments.address, retries=arguments.retries)
    except TrainingError as error:
        fail(f"{error}; {advice}", status=1)
    interruption.release()
    conclude(sweep)
    if interruption.signal is not None:
        print(f"stopped; {advice}")
        raise SystemExit(interruption.exit_status)
    if unfinished := [describe(run) for run in runs if not (run / RESULT).exists()]:
        fail(f"not finished: {', '.join(unfinished)}; {advice}", status=1)


def describe(run: Path) -> str:
    """Returns the name of a run that is not finished, with the error of its training if there was one."""
    failed = run / FAILED
    return f"{run.name} ({json.loads(failed.read_text())['error']})" if failed.exists() else run.name


def check_resume(argv: Sequence[str]) -> None:
    """Raises ValueError for flags that a resumed sweep would ignore."""
    ignored = [flag for flag in given_flags(argv) if flag not in OBEYED_ON_RESUME]
    if ignored:
        raise ValueError(f"--resume: the runs keep their own settings; leave out {' '.join(ignored)}")


def new_runs(arguments: Arguments, common: list[str]) -> tuple[Path, list[Path]]:
    """Makes the folders of the sweep and of all runs.

    Raises ValueError, before that, for a setting out of range, or weights that a run cannot start from.

    Args:
        common: the flags that hold for every run.
    """
    described: dict[str, Any] = {"run": asdict(arguments.recording)}
    configs = expand(arguments, common)
    if arguments.weights_of is not None:
        # Imported here: torch takes seconds.
        from agents.runs.transfer import start_from

        for config in {config.policy(): config for config in configs.values()}.values():
            start_from(arguments.weights_of, config)
        described["from"] = str(arguments.weights_of.absolute())
    sweep = arguments.run_dir or new_folder("sweep")
    return sweep, make_runs(sweep, {name: {"a3c": c.to_dict()} | described for name, c in configs.items()})


def expand(arguments: Arguments, flags: list[str]) -> dict[str, A3CConfig]:
    """Returns the settings of every run by name: games x heads x learning rates x seeds.

    Args:
        flags: those that hold for every run.

    Raises:
        ValueError: a setting out of range, or two runs with one name.
    """
    heads = arguments.head.split(",")
    refuse_unused_layers(flags, heads)
    common = read_arguments(A3CConfig, flags, program=PROGRAM, default=preset(arguments.preset))
    if common.seed != A3CConfig.seed:
        raise ValueError(f"--seed {common.seed}: a sweep has --seeds from --first-seed on; give those")
    if common.workers == "auto":
        raise ValueError(
            "--workers auto takes the whole cluster for one run; give each run of a sweep a number"
        )
    try:
        given = arguments.learning_rate.split(",") if arguments.learning_rate else [common.learning_rate]
        rates = [float(rate) for rate in given]
    except ValueError as error:
        raise ValueError(f"--learning-rate {arguments.learning_rate}: {error}") from error
    configs: dict[str, A3CConfig] = {}
    seeds = seed_range(arguments.first_seed, arguments.seeds)
    for env, head, rate, seed in itertools.product(arguments.env.split(","), heads, rates, seeds):
        config = replace(common, env=env, head=head, learning_rate=rate, seed=seed)
        config.check()
        game = config.game().rom
        name = f"{game}-{head}-lr{rate:g}-seed{seed}"
        if name in configs:
            raise ValueError(
                f"two runs would have the name {name}: {env} is given twice, or a rate like {rate}"
            )
        configs[name] = config
    return configs


if __name__ == "__main__":
    main()
