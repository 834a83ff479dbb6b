"""Trains networks with supervision: images, polynomials, algorithms.

    python -m launch.supervised polynomials --layer mlp,neurocoder --preset multi-step --seeds 3

Every layer and seed is a run, in a folder of its own. A single run trains in this process, several train as Ray tasks.
Settings that are not given are the paper's for the task, network and layer. Ctrl-C or SIGTERM ends runs with a last
checkpoint, and --resume continues those that are not finished.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import tyro

from agents.flags import flag
from agents.supervised.config import NETWORKS, SupervisedConfig, SupervisedSettings
from agents.supervised.presets import preset
from launch.command_line import experiment
from launch.command_line.command import command
from launch.command_line.experiment import ExperimentArguments, Placement
from launch.command_line.flags import given_flags, parse_with_defaults, refuse_unused_layers
from launch.experiments.folder import seed_range
from neurocoder.checks import check_positive


@dataclass(frozen=True)
class Arguments(ExperimentArguments):
    program: ClassVar[str] = "python -m launch.supervised"
    key: ClassVar[str] = "supervised"
    config: ClassVar[Any] = SupervisedConfig

    task: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TASK", help_behavior_hint="")
    ] = None
    """mnist, cifar10, cifar100, polynomials or algorithms."""
    network: str | None = None
    """The Main Network. mnist: linear, mlp; cifar: mlp, lenet, densenet, linear; polynomials: gru; algorithms: ntm."""
    layer: str = "neurocoder"
    """Output layers, separated by commas: mlp, neurocoder, hypernet, film, moe, nsm, lowrank."""
    preset: str | None = None
    """For polynomials: the paper's Neurocoder, single-step or multi-step, or both with a comma."""
    usage: bool = True
    """Give the Neurocoder usage-based attention. --no-usage is the ablation of the paper's Figure 6."""
    seeds: int = 1
    """Runs of each layer, with seeds from --first-seed on."""
    first_seed: int = 1
    """The first seed."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""
    settings: Annotated[SupervisedSettings, tyro.conf.arg(name="")] = field(
        default_factory=SupervisedSettings
    )
    placement: Annotated[Placement, tyro.conf.arg(name="")] = field(default_factory=Placement)

    @property
    def subject(self) -> str | None:
        return self.task

    def first_preset(self) -> tuple[str, SupervisedConfig]:
        task, layer = self.task or next(iter(NETWORKS)), self.layer.split(",")[0]
        name = self.preset.split(",")[0] if self.preset else None
        config = preset(task, network=self.network, layer=layer, name=name)
        words = [task, "--network", config.network, "--layer", layer, *(["--preset", name] if name else [])]
        return " ".join(words), config

    def expand(self, argv: list[str]) -> dict[str, tuple[str, SupervisedConfig]]:
        """Returns layers x presets x seeds."""
        if self.task is None:
            raise ValueError(
                f"no task given; name one of {', '.join(NETWORKS)}, or --resume a folder of runs"
            )
        seeds = seed_range(self.first_seed, self.seeds)
        layers = self.layer.split(",")
        if not self.usage and "neurocoder" not in layers:
            raise ValueError(f"--no-usage is for the neurocoder; --layer {self.layer} has none")
        configs = {}
        for layer in layers:
            for name in self.preset.split(",") if self.preset else [None]:
                label, config = self._configure(argv, layer, name)
                # Layers without presets have the same runs with each preset.
                for seed in seeds:
                    configs[f"{label}-seed{seed}"] = label, replace(config, seed=seed)
        refuse_unused_layers(argv, layers)
        return configs

    def _configure(self, argv: list[str], layer: str, name: str | None) -> tuple[str, SupervisedConfig]:
        """Returns label and settings of one layer and preset. Raises ValueError for a setting without effect."""
        assert self.task is not None
        config = preset(self.task, network=self.network, layer=layer, name=name)
        config = parse_with_defaults(config, self, argv, program=self.program)
        config.check()
        given = given_flags(argv)
        for setting, reason in config.unused_settings().items():
            if flag(setting) in given and getattr(config, setting) != getattr(SupervisedSettings, setting):
                raise ValueError(reason)
        ablated = layer == "neurocoder" and not self.usage
        if ablated:
            config = without_usage(config)
        shown = name if layer in ("neurocoder", "lowrank") else None
        return self.placement.label(layer, shown, "no-usage" if ablated else None), config

    def folder_words(self, config: SupervisedConfig) -> tuple[str, str]:
        return config.task, config.network

    def machine(self) -> dict[str, Any]:
        check_positive("--checkpoint-seconds", self.checkpoint_seconds)
        return super().machine() | {"checkpoint_seconds": self.checkpoint_seconds}


def without_usage(config: SupervisedConfig) -> SupervisedConfig:
    """Returns the ablation. Raises ValueError if there is nothing to leave out."""
    settings = config.neurocoder
    if not settings.steps or not settings.least_used:
        raise ValueError(
            f"--no-usage: a Neurocoder with --neurocoder.steps {settings.steps} and --neurocoder.least-used "
            f"{settings.least_used} has no usage to leave out; both must be above 0, as with --preset multi-step"
        )
    return replace(config, neurocoder=replace(settings, least_used=0))


@command
def main() -> None:
    raise SystemExit(experiment.main(Arguments, __doc__))


if __name__ == "__main__":
    main()
