"""Trains networks on one task after another, and measures how much of the earlier tasks they still know.

    python -m launch.continual split-mnist --scenario task --method adam,ewc --layer mlp,neurocoder --seeds 10

Every layer, method and seed is a run, in a folder of its own. A single run trains in this process, several train as Ray
tasks. Settings that are not given are the paper's, and its benchmark's for the method. Ctrl-C or SIGTERM ends runs
with a last checkpoint, and --resume continues those that are not finished.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import tyro

from agents.continual.config import BENCHMARKS, ContinualConfig, ContinualSettings
from agents.continual.presets import preset
from launch.command_line import experiment
from launch.command_line.command import command
from launch.command_line.experiment import ExperimentArguments, Placement
from launch.command_line.flags import parse_with_defaults, refuse_unused_layers
from launch.experiments.folder import seed_range
from neurocoder.checks import check_at_least, check_known


@dataclass(frozen=True)
class Arguments(ExperimentArguments):
    program: ClassVar[str] = "python -m launch.continual"
    key: ClassVar[str] = "continual"
    config: ClassVar[Any] = ContinualConfig

    benchmark: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="BENCHMARK", help_behavior_hint="")
    ] = None
    """split-mnist (5 tasks of 2 digits), split-cifar10 (5 of 2 classes) or split-cifar100 (20 of 5 classes)."""
    scenario: str = "task"
    """Incremental task, domain or class."""
    method: str = "adam"
    """Methods, separated by commas: adam, adagrad, sgd, l2, si, ewc, online-ewc."""
    layer: str = "neurocoder"
    """Layers, separated by commas: mlp, nsm, neurocoder, lowrank."""
    preset: str = "best"
    """The Neurocoder: best (only the heads, with residual program) or table-6 (the paper's: all layers)."""
    seeds: int = 1
    """Runs of each layer and method, with seeds from --first-seed on."""
    first_seed: int = 1
    """The first seed."""
    together: int = 1
    """Seeds that train together, as one batched model. This is faster on a GPU."""
    settings: Annotated[ContinualSettings, tyro.conf.arg(name="")] = field(default_factory=ContinualSettings)
    placement: Annotated[Placement, tyro.conf.arg(name="")] = field(default_factory=Placement)

    @property
    def subject(self) -> str | None:
        return self.benchmark

    def first_preset(self) -> tuple[str, ContinualConfig]:
        benchmark = self.benchmark or next(iter(BENCHMARKS))
        check_known("benchmark", benchmark, BENCHMARKS)
        method, layer = self.method.split(",")[0], self.layer.split(",")[0]
        config = preset(benchmark, scenario=self.scenario, method=method, layer=layer, name=self.preset)
        choices = {"scenario": self.scenario, "method": method, "layer": layer, "preset": self.preset}
        return " ".join([benchmark, *(f"--{name} {choice}" for name, choice in choices.items())]), config

    def expand(self, argv: list[str]) -> dict[str, tuple[str, ContinualConfig]]:
        """Returns layers x methods x seeds."""
        if self.benchmark is None:
            raise ValueError(
                f"no benchmark given; name one of {', '.join(BENCHMARKS)}, or --resume a folder of runs"
            )
        check_known("benchmark", self.benchmark, BENCHMARKS)
        seeds = seed_range(self.first_seed, self.seeds)
        check_at_least("--together", self.together, 1)
        layers = self.layer.split(",")
        configs = {}
        for layer in layers:
            for method in self.method.split(","):
                config = preset(
                    self.benchmark, scenario=self.scenario, method=method, layer=layer, name=self.preset
                )
                config = parse_with_defaults(config, self, argv, program=self.program)
                config.check()
                label = self.placement.label(layer, method)
                for first in range(0, len(seeds), self.together):
                    together = tuple(seeds[first : first + self.together])
                    ends = "-".join(map(str, sorted({together[0], together[-1]})))
                    configs[f"{label}-seed{ends}"] = label, replace(config, seeds=together)
        refuse_unused_layers(argv, layers)
        return configs

    def folder_words(self, config: ContinualConfig) -> tuple[str, str]:
        return config.benchmark, config.scenario


@command
def main() -> None:
    raise SystemExit(experiment.main(Arguments, __doc__))


if __name__ == "__main__":
    main()
