"""Trains networks with supervision: images, polynomials, algorithms.

    python -m launch.supervised polynomials --layer mlp,neurocoder --preset multi-step --seeds 3

Every layer and seed is a run, in a folder of its own. One run trains in this process, more of them as Ray tasks. Settings not
given are the paper's for the task, network and layer at hand. Ctrl-C or SIGTERM ends runs with a last checkpoint; --resume
continues those that are not finished.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from agents.runs.folder import default_run_path
from agents.stored_settings import read_settings
from agents.supervised.config import IMAGES, NETWORKS, SupervisedConfig, SupervisedSettings
from agents.supervised.presets import preset
from envs.images import data_folder, ensure_files
from launch.command_line.errors import fail
from launch.command_line.experiment import (
    Placement,
    carry_out,
    make_runs,
    resumed_runs,
    seed_range,
    with_given_settings,
)
from neurocoder.checks import check_positive

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
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""
    placement: Annotated[Placement, tyro.conf.arg(name="")] = field(default_factory=Placement)


def main() -> None:
    arguments = tyro.cli(Arguments, prog=PROGRAM, description=__doc__)
    placement = arguments.placement
    try:
        if placement.resume is not None:
            experiment = placement.resume
            runs = resumed_runs(
                experiment, lambda run: read_settings(SupervisedConfig, run["supervised"]).check()
            )
        else:
            experiment, runs = new_runs(arguments, sys.argv[1:])
    except ValueError as error:
        fail(error)
    # Imported here: torch takes seconds.
    from launch.experiments.supervised_run import execute
    from launch.results.supervised import conclude

    raise SystemExit(carry_out(placement, experiment, runs, execute, program=PROGRAM, conclude=conclude))


def new_runs(arguments: Arguments, argv: list[str]) -> tuple[Path, list[Path]]:
    """Makes the folders of all runs. ValueError, before that, for a setting out of range or data that are missing."""
    configs = expand(arguments, argv)
    device = arguments.placement.resolve_device()
    task, network = configs[0][1].task, configs[0][1].network
    data = data_folder(arguments.data_dir)
    if task in IMAGES:
        ensure_files(task, data)
    experiment = arguments.placement.run_dir or default_run_path(task, network)
    described = {
        f"{label}-seed{config.seed}": {
            "label": label,
            "supervised": config.to_dict(),
            "data": str(data.absolute()),
            "device": device,
            "checkpoint_seconds": arguments.checkpoint_seconds,
        }
        for label, config in configs
    }
    return experiment, make_runs(experiment, described)


def expand(arguments: Arguments, argv: list[str]) -> list[tuple[str, SupervisedConfig]]:
    """Label and settings of every run: layers x presets x seeds. ValueError, in one line, for what cannot be."""
    if arguments.task is None:
        raise ValueError(f"no task given; name one of {', '.join(NETWORKS)}, or --resume a folder of runs")
    seeds = seed_range(arguments.first_seed, arguments.seeds)
    check_positive("--checkpoint-seconds", arguments.checkpoint_seconds)
    configs = {}
    if arguments.no_usage and "neurocoder" not in arguments.layer.split(","):
        raise ValueError(f"--no-usage is for the neurocoder; --layer {arguments.layer} has none")
    for layer in arguments.layer.split(","):
        # Only what is composed has more than one preset: the runs of another layer are the same with each.
        composed = layer in ("neurocoder", "lowrank")
        for name in arguments.preset.split(",") if arguments.preset else [None]:
            config = preset(arguments.task, network=arguments.network, layer=layer, name=name)
            config = with_given_settings(config, arguments, argv, program=PROGRAM)
            config.check()
            ablated = arguments.no_usage and layer == "neurocoder"
            if ablated:
                config = without_usage(config)
            label = arguments.placement.label(
                layer, name if composed else None, "no-usage" if ablated else None
            )
            for seed in seeds:
                configs[label, seed] = replace(config, seed=seed)
    return [(label, config) for (label, _), config in configs.items()]


def without_usage(config: SupervisedConfig) -> SupervisedConfig:
    """The ablation. ValueError if there is nothing to leave out."""
    settings = config.neurocoder
    if not settings.steps or not settings.least_used:
        raise ValueError(
            f"--no-usage: a Neurocoder with --neurocoder.steps {settings.steps} and --neurocoder.least-used "
            f"{settings.least_used} has no usage to leave out; both must be above 0, as with --preset multi-step"
        )
    return replace(config, neurocoder=replace(settings, least_used=0))


if __name__ == "__main__":
    main()
