"""Continual learning: one task after another, and how much of the earlier ones is left.

    python -m launch.continual split-mnist --scenario task --method adam,ewc --layer mlp,neurocoder --seeds 10

Every layer, method and seed is a run, in a folder of its own. One run trains in this process, more of them as Ray tasks. Settings
not given are the paper's and its benchmark's for the method at hand. Ctrl-C or SIGTERM ends runs after the last finished task;
--resume continues those that are not finished.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from agents.continual.config import BENCHMARKS, ContinualConfig, ContinualSettings, preset
from agents.runs.folder import default_run_path
from agents.stored_settings import read_settings
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
from neurocoder.checks import check_at_least, check_known

PROGRAM = "python -m launch.continual"


@dataclass(frozen=True)
class Arguments:
    benchmark: Annotated[str | None, tyro.conf.Positional] = None
    """split-mnist (5 tasks of 2 digits), split-cifar10 (5 of 2 classes) or split-cifar100 (20 of 5 classes)."""
    scenario: str = "task"
    """Incremental task, domain or class."""
    method: str = "adam"
    """Methods, separated by commas: adam, adagrad, sgd, l2, si, ewc, online-ewc."""
    layer: str = "neurocoder"
    """Layers, separated by commas: mlp, nsm, neurocoder, lowrank."""
    preset: str = "best"
    """Neurocoder and its control: best (only heads, with residual program: best over methods) or table-6 (the paper's: all layers)."""
    seeds: int = 1
    """Runs of each layer and method, with seeds from --first-seed on."""
    first_seed: int = 1
    """The first seed."""
    together: int = 1
    """Seeds that train together, as one batched model: faster on a GPU."""
    settings: Annotated[ContinualSettings, tyro.conf.arg(name="")] = field(default_factory=ContinualSettings)

    data_dir: Path | None = None
    """Folder of the data sets, downloaded to it where they are missing; NEUROCODER_DATA or data/ if not given."""
    placement: Annotated[Placement, tyro.conf.arg(name="")] = field(default_factory=Placement)


def main() -> None:
    arguments = tyro.cli(Arguments, prog=PROGRAM, description=__doc__)
    placement = arguments.placement
    try:
        if placement.resume is not None:
            experiment = placement.resume
            runs = resumed_runs(
                experiment, lambda run: read_settings(ContinualConfig, run["continual"]).check()
            )
        else:
            experiment, runs = new_runs(arguments, sys.argv[1:])
    except ValueError as error:
        fail(error)
    # Imported here: torch takes seconds.
    from launch.experiments.continual_run import execute, prepare
    from launch.results.continual import conclude

    try:
        prepare(runs[0])
    except ValueError as error:
        fail(error)
    raise SystemExit(carry_out(placement, experiment, runs, execute, program=PROGRAM, conclude=conclude))


def new_runs(arguments: Arguments, argv: list[str]) -> tuple[Path, list[Path]]:
    """Makes the folders of all runs. ValueError, before that, for a setting out of range or data that are missing."""
    configs = expand(arguments, argv)
    device = arguments.placement.resolve_device()
    benchmark, scenario = configs[0][1].benchmark, configs[0][1].scenario
    data = data_folder(arguments.data_dir)
    ensure_files(BENCHMARKS[benchmark], data)
    experiment = arguments.placement.run_dir or default_run_path(benchmark, scenario)
    described = {
        f"{label}-seed{'-'.join(map(str, sorted({config.seeds[0], config.seeds[-1]})))}": {
            "label": label,
            "continual": config.to_dict(),
            "data": str(data.absolute()),
            "device": device,
        }
        for label, config in configs
    }
    return experiment, make_runs(experiment, described)


def expand(arguments: Arguments, argv: list[str]) -> list[tuple[str, ContinualConfig]]:
    """Label and settings of every run: layers x methods x seeds. ValueError, in one line, for what cannot be."""
    if arguments.benchmark is None:
        raise ValueError(
            f"no benchmark given; name one of {', '.join(BENCHMARKS)}, or --resume a folder of runs"
        )
    check_known("benchmark", arguments.benchmark, BENCHMARKS)
    seeds = seed_range(arguments.first_seed, arguments.seeds)
    check_at_least("--together", arguments.together, 1)
    configs = []
    for layer in dict.fromkeys(arguments.layer.split(",")):
        for method in dict.fromkeys(arguments.method.split(",")):
            config = preset(
                arguments.benchmark,
                scenario=arguments.scenario,
                method=method,
                layer=layer,
                name=arguments.preset,
            )
            config = with_given_settings(config, arguments, argv, program=PROGRAM)
            config.check()
            label = arguments.placement.label(layer, method)
            for first in range(0, len(seeds), arguments.together):
                together = tuple(seeds[first : first + arguments.together])
                configs.append((label, replace(config, seeds=together)))
    return configs


if __name__ == "__main__":
    main()
