"""Trains networks with supervision: images, polynomials, algorithms.

    python -m launch.supervised polynomials --layer mlp,neurocoder --preset multi-step --seeds 3

Every layer and seed is a run, in a folder of its own. One run trains in this process, more of them as Ray tasks. Settings not
given are the paper's for the task, network and layer at hand. Ctrl-C or SIGTERM ends runs with a last checkpoint; --resume
continues those that are not finished.
"""

import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from agents.errors import TrainingError
from agents.layer_settings import check_at_least, check_choice, check_not_negative, check_positive
from agents.supervised.config import IMAGES, NETWORKS, SupervisedConfig, SupervisedSettings
from agents.supervised.presets import preset
from envs.images import data_folder, ensure_files
from launch.command_line import Interruption, check_address, fail, has_gpu, require_gpu
from launch.run_folder import RunFolder, default_run_path, software_versions, write_json_atomically

PROGRAM = "python -m launch.supervised"


@dataclass(frozen=True)
class Arguments:
    task: Annotated[str | None, tyro.conf.Positional] = None
    """mnist, cifar10, cifar100, polynomials or algorithms."""
    network: str | None = None
    """Main Network; mnist: linear, mlp; cifar: mlp, lenet, densenet, linear; polynomials: gru; algorithms: ntm."""
    layer: str = "neurocoder"
    """Output layers, separated by commas: mlp, neurocoder, hypernet, film, moe, nsm, lowrank."""
    preset: str | None = None
    """Polynomials: which of the paper's Neurocoders, single-step or multi-step, or both with a comma."""
    no_usage: bool = False
    """Neurocoder without usage-based attention (the ablation of the paper's Figure 6)."""
    seeds: int = 1
    """Runs of each layer, with seeds from --first-seed on."""
    first_seed: int = 1
    """The first seed."""
    settings: Annotated[SupervisedSettings, tyro.conf.arg(name="")] = field(
        default_factory=SupervisedSettings
    )

    data_dir: Path | None = None
    """Folder of the data sets, downloaded to it where they are missing; NEUROCODER_DATA or data/ if not given."""
    run_dir: Path | None = None
    """Folder of the runs; runs/<task>-<network>-<time> if not given. New runs may join those it has."""
    resume: Path | None = None
    """Go on with the unfinished runs in this folder, with their own settings."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    gpus_per_run: float = 0.0
    """Share of a GPU that each of several runs takes."""
    address: str | None = None
    """Join the Ray cluster at this address ("auto": the one running on this machine); all its nodes must see the folders."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""


def main() -> None:
    arguments = tyro.cli(Arguments, prog=PROGRAM, description=__doc__)
    try:
        if arguments.address is not None:
            check_address(arguments.address)
        if arguments.resume is not None:
            experiment, runs = arguments.resume, unfinished(arguments.resume)
        else:
            experiment, runs = make_runs(arguments, sys.argv[1:])
    except ValueError as error:
        fail(error)
    raise SystemExit(carry_out(arguments, experiment, runs))


def make_runs(arguments: Arguments, argv: list[str]) -> tuple[Path, list[Path]]:
    """Makes the folders of all runs. ValueError, before that, for a setting out of range or data that are missing."""
    configs = expand(arguments, argv)
    device = resolve_device(arguments)
    task, network = configs[0][1].task, configs[0][1].network
    if task in IMAGES:
        ensure_files(task, data_folder(arguments.data_dir))
    experiment = arguments.run_dir or default_run_path(task, network)
    runs = [experiment / f"{label}-seed{config.seed}" for label, config in configs]
    for run in runs:
        if run.exists():
            raise ValueError(f"{run}: there is such a run already; go on with it by --resume {experiment}")
    software = software_versions()
    for run, (label, config) in zip(runs, configs, strict=True):
        with RunFolder.create(run):
            described = {
                "label": label,
                "supervised": config.to_dict(),
                "data": str(data_folder(arguments.data_dir).absolute()),
                "device": device,
                "checkpoint_seconds": arguments.checkpoint_seconds,
                "software": software,
            }
            write_json_atomically(run / "config.json", described)
    return experiment, runs


def expand(arguments: Arguments, argv: list[str]) -> list[tuple[str, SupervisedConfig]]:
    """Label and settings of every run: layers x presets x seeds. ValueError, in one line, for what cannot be."""
    if arguments.task is None:
        raise ValueError(f"no task given; name one of {', '.join(NETWORKS)}, or --resume a folder of runs")
    check_at_least("seeds", arguments.seeds, 1)
    check_at_least("first_seed", arguments.first_seed, 0)
    check_positive("checkpoint_seconds", arguments.checkpoint_seconds)
    check_not_negative("gpus_per_run", arguments.gpus_per_run)
    configs = {}
    for layer in arguments.layer.split(","):
        # Only what is composed has more than one preset.
        composed = layer in ("neurocoder", "lowrank") and arguments.preset is not None
        for name in arguments.preset.split(",") if composed and arguments.preset else [None]:
            config = preset(arguments.task, network=arguments.network, layer=layer, name=name)
            if arguments.no_usage:
                config = replace(config, neurocoder=replace(config.neurocoder, least_used=0))
            config = override(config, arguments, argv)
            ablated = arguments.no_usage and layer == "neurocoder"
            label = "-".join((layer, *([name] if name else []), *(["no-usage"] if ablated else [])))
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                configs[label, seed] = replace(config, seed=seed)
    return [(label, config) for (label, _), config in configs.items()]


def override(config: SupervisedConfig, arguments: Arguments, argv: list[str]) -> SupervisedConfig:
    """`config` with the settings that are given on the command line, checked."""
    names = {f.name for f in fields(SupervisedSettings)}
    defaults = SupervisedSettings(**{name: getattr(config, name) for name in names})
    given = tyro.cli(Arguments, args=argv, default=replace(arguments, settings=defaults), prog=PROGRAM)
    config = replace(config, **{name: getattr(given.settings, name) for name in names})
    config.check()
    return config


def resolve_device(arguments: Arguments) -> str:
    """cpu or cuda. ValueError for another, or for a GPU where there is none."""
    check_choice("device", arguments.device, ("auto", "cpu", "cuda"))
    if arguments.address is not None:  # this machine may have no GPU where the cluster's nodes do
        return "cuda" if arguments.gpus_per_run or arguments.device == "cuda" else "cpu"
    if arguments.device == "cuda" or arguments.gpus_per_run:
        require_gpu("--device cuda" if arguments.device == "cuda" else "--gpus-per-run")
        return "cuda"
    return "cuda" if arguments.device == "auto" and has_gpu() else "cpu"


def unfinished(experiment: Path) -> list[Path]:
    """The runs of a folder that have no result yet. ValueError if it has no runs, or nothing is left to do."""
    runs = sorted(path.parent for path in experiment.glob("*/config.json"))
    if not runs:
        raise ValueError(f"--resume {experiment}: not a folder of runs, none in it has a config.json")
    left = [run for run in runs if not (run / "result.json").exists()]
    if not left:
        raise ValueError(f"--resume {experiment}: all of its {len(runs)} runs are finished")
    return left


def carry_out(arguments: Arguments, experiment: Path, runs: list[Path]) -> int:
    """Does the runs and shows what they came to: the exit status."""
    from launch.grid import run_here, run_on_ray
    from launch.supervised_results import show, write_table
    from launch.supervised_run import execute

    print(f"run folder {experiment}   curves: tensorboard --logdir {experiment}", flush=True)
    interruption = Interruption()
    try:
        if len(runs) == 1 and arguments.address is None:
            failures = run_here(runs, execute, interruption)
        else:
            failures = run_on_ray(
                runs, execute, interruption, address=arguments.address, gpus_per_run=arguments.gpus_per_run
            )
    except TrainingError as error:
        fail(error, status=1)
    interruption.release()
    write_table(experiment)
    show(experiment)
    for name, failure in failures.items():
        print(f"error: {name}: {failure}", file=sys.stderr)
    if interruption.signal is not None:
        print(f"stopped; continue with {PROGRAM} --resume {experiment}")
        return interruption.exit_status
    return 1 if failures else 0


if __name__ == "__main__":
    main()
