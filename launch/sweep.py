"""Trains A3C agents with many settings, as trials of Ray Tune, and compares them.

    python -m launch.sweep --env Pong,Seaquest --head mlp,neurocoder --seeds 3 --lr 1e-4,7e-4 --workers 2 --total-steps 2_000_000

Every combination is a run in a folder of its own, which launch.evaluate and launch.plot read like any other. All other settings
of launch.train (--workers, --total-steps, --rollout-steps, ...) are taken, too, and hold for every run. A run that fails is tried
again from its newest checkpoint; --resume goes on with those that are not finished.
"""

import itertools
import json
import os
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.a3c.config import A3CConfig
from agents.a3c.presets import preset
from agents.errors import TrainingError
from agents.flags import flag
from agents.runs.best import find_checkpoints
from agents.runs.folder import RESULT
from agents.runs.recording import Recording
from agents.runs.score_statistics import interquartile_mean, stratified_bootstrap_interval
from envs.atari import resolve
from envs.atari_scores import human_normalised_score
from launch.command_line.errors import check_address, fail
from launch.command_line.interruption import Interruption
from launch.experiments.folder import make_runs, resumed_runs, seed_range
from neurocoder.checks import check_at_least

PROGRAM = "python -m launch.sweep"
RECORDING = Recording(evaluate_episodes=30)


@dataclass(frozen=True)
class Arguments:
    env: str = "Pong"
    """Games, separated by commas."""
    head: str = "mlp,neurocoder"
    """Heads, separated by commas: mlp, hypernet, neurocoder."""
    lr: str | None = None
    """Learning rates, separated by commas; the preset's if not given."""
    preset: str = "paper"
    """Settings where no flag gives one: paper or two-cores, as for launch.train."""
    seeds: int = 3
    """Runs of each combination, with seeds from --first-seed on."""
    first_seed: int = 1
    """The first seed."""
    run_dir: Path | None = None
    """Folder of the sweep; runs/sweep-<time> if not given."""
    resume: Path | None = None
    """Go on with the unfinished runs in this folder, with their own settings."""
    address: str | None = None
    """Join the Ray cluster at this address ("auto": the one running on this machine); all its nodes must see the folder."""
    retries: int = 3
    """How often a run that fails is tried again."""
    weights_of: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Start every run from the weights of this run or checkpoint folder. Output layers of another size start fresh."""
    recording: Annotated[Recording, tyro.conf.arg(name="")] = RECORDING

    def check(self) -> None:
        """ValueError, in one line, for a setting out of range."""
        check_at_least("--retries", self.retries, 0)
        self.recording.check()
        # A sweep compares what the last games score.
        check_at_least("--evaluate-episodes", self.recording.evaluate_episodes, 1)
        if self.address is not None:
            check_address(self.address)
        if self.resume is not None:
            given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            given += [
                f.name
                for f in fields(Recording)
                if getattr(self.recording, f.name) != getattr(RECORDING, f.name)
            ]
            mine = ("resume", "address", "retries", "recording")
            check_resume(
                ["--from" if name == "weights_of" else flag(name) for name in given if name not in mine]
            )


def main() -> None:
    arguments, rest = tyro.cli(Arguments, prog=PROGRAM, description=__doc__, return_unknown_args=True)
    try:
        arguments.check()
        if arguments.resume is not None:
            check_resume(rest)
            sweep = arguments.resume
            runs = resumed_runs(sweep, lambda run: A3CConfig.from_dict(run["a3c"]).check())
        else:
            sweep = arguments.run_dir or Path("runs") / f"sweep-{time.strftime('%Y%m%d-%H%M%S')}"
            described: dict[str, Any] = {"run": asdict(arguments.recording)}
            if arguments.weights_of is not None:
                find_checkpoints(arguments.weights_of, best=False)
                described["from"] = str(arguments.weights_of.absolute())
            configs = expand(arguments, rest)
            runs = make_runs(sweep, {name: {"a3c": c.to_dict()} | described for name, c in configs.items()})
    except ValueError as error:
        fail(error)
    print(f"run folder {sweep}   curves: tensorboard --logdir {sweep}", flush=True)
    interruption = Interruption()
    try:
        carry_out(arguments, runs, interruption)
    except TrainingError as error:
        fail(error, status=1)
    interruption.release()
    if results := finished(sweep):
        print(table(results))
    way_on = f"continue with {PROGRAM} --resume {sweep}"
    if interruption.signal is not None:
        print(f"stopped; {way_on}")
        raise SystemExit(interruption.exit_status)
    if left := [run.name for run in runs if not (run / RESULT).exists()]:
        fail(f"not finished: {', '.join(left)}; {way_on}", status=1)


def check_resume(given: list[str]) -> None:
    """ValueError if there are flags beside --resume."""
    if given:
        raise ValueError(f"--resume: the runs keep their own settings; leave out {' '.join(given)}")


def expand(arguments: Arguments, rest: list[str]) -> dict[str, A3CConfig]:
    """Settings of every run, by name: games x heads x learning rates x seeds. ValueError for what cannot be.

    Args:
        rest: the flags that hold for every run.
    """
    common = tyro.cli(A3CConfig, args=rest, default=preset(arguments.preset), prog=PROGRAM)
    if common.seed != A3CConfig.seed:
        raise ValueError(f"--seed {common.seed}: a sweep has --seeds from --first-seed on; give those")
    if common.workers == "auto":
        raise ValueError(
            "--workers auto takes the whole cluster for one run; give each run of a sweep a number"
        )
    try:
        rates = [float(rate) for rate in arguments.lr.split(",")] if arguments.lr else [common.learning_rate]
    except ValueError as error:
        raise ValueError(f"--lr {arguments.lr}: {error}") from error
    configs: dict[str, A3CConfig] = {}
    seeds = seed_range(arguments.first_seed, arguments.seeds)
    for env, head, rate, seed in itertools.product(
        arguments.env.split(","), arguments.head.split(","), rates, seeds
    ):
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


def carry_out(arguments: Arguments, runs: list[Path], interruption: Interruption) -> None:
    """Trains all runs, or until a signal. TrainingError if there is no cluster, or none with room for a run."""
    os.environ |= {"TUNE_DISABLE_SIGINT_HANDLER": "1", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    # Imported here: they take seconds.
    from ray import tune

    from agents.ray_cluster import check_room, connect
    from launch.experiments.tune_trial import SweepTrial

    class UntilSignal(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return interruption.signal is not None

    config = A3CConfig.from_dict(json.loads((runs[0] / "config.json").read_text())["a3c"])
    assert config.workers != "auto"
    each = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    workers = max(config.workers, 1)
    connect(arguments.address, cpus=max(workers * config.cpus_per_worker, os.cpu_count() or 1))
    check_room(workers, "workers", cpus=config.cpus_per_worker, gpus=config.gpus_per_worker)
    tuner = tune.Tuner(
        tune.with_resources(
            SweepTrial, tune.PlacementGroupFactory([{}] + [each] * config.workers if config.workers else [each])
        ),
        param_space={"run": tune.grid_search([str(run.absolute()) for run in runs])},
        tune_config=tune.TuneConfig(trial_name_creator=lambda trial: Path(trial.config["run"]).name),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(runs[0].parent.absolute()), verbose=1,
            failure_config=tune.FailureConfig(max_failures=arguments.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run's folder has its own
            stop=UntilSignal(),
        ),
    )  # fmt: skip
    interruption.listen()  # Ray has put its own handlers there
    tuner.fit()


def finished(sweep: Path) -> list[dict[str, Any]]:
    """The results of all finished runs."""
    return [json.loads(path.read_text()) for path in sorted(sweep.glob(f"*/{RESULT}"))]


def table(results: list[dict[str, Any]]) -> str:
    """For every game, head and learning rate, and for every head over all games: interquartile mean over runs, and its interval.

    A run's score is the mean return over its last three evaluations. Over all games it is human-normalised: 0 is random play, 1
    human play.
    """
    groups: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for result in results:
        # Sweeps of before know the mean of the last games alone.
        score = result.get("score", result["mean"])
        groups[result["env"], result["head"], result["learning_rate"]].append(score)
    lines = [f"{'game':16} {'head':12} {'rate':>8} {'runs':>4} {'IQM':>10}   95 % interval"]
    pooled: dict[tuple[str, float], list[list[float]]] = defaultdict(list)
    for (env, head, rate), scores in sorted(groups.items()):
        lines.append(_line(env, head, rate, [scores], digits=1))
        human = [human_normalised_score(resolve(env).rom, score) for score in scores]
        if None not in human:
            pooled[head, rate].append(human)  # type: ignore[arg-type]
    if len({env for env, _, _ in groups}) > 1:
        for (head, rate), strata in sorted(pooled.items()):
            lines.append(_line("human-normalised", head, rate, strata, digits=3))
    return "\n".join(lines)


def _line(game: str, head: str, rate: float, strata: list[list[float]], *, digits: int) -> str:
    scores = [score for stratum in strata for score in stratum]
    low, high = stratified_bootstrap_interval(strata)
    return (
        f"{game:16} {head:12} {rate:8g} {len(scores):4} {interquartile_mean(scores):10.{digits}f}   "
        f"{low:.{digits}f} to {high:.{digits}f}"
    )


if __name__ == "__main__":
    main()
