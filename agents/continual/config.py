"""Settings of a continual-learning run, and what the benchmark and the paper use for each method.

Nothing heavy is imported here, so that a command line can be checked at once.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from agents.flags import flag
from neurocoder.checks import check_at_least, check_known, check_not_negative, check_positive
from neurocoder.settings import LayerSettings, NeurocoderSettings, StoredProgramSettings

BENCHMARKS = {"split-mnist": "mnist", "split-cifar10": "cifar10", "split-cifar100": "cifar100"}
"""And the data set that each is made of."""
SCENARIOS = ("task", "domain", "class")
LAYERS = ("mlp", "nsm", "neurocoder", "lowrank")
PRESETS = ("best", "table-6")
"""Of the Neurocoder: the reading that was best over methods on held-out seeds (docs/results/continual.md), or the paper's Table 6."""
METHODS = ("adam", "adagrad", "sgd", "l2", "si", "ewc", "online-ewc")

LEARNING_RATES = {"sgd": 1e-2, "adagrad": 1e-2}  # 1e-3 for all others, which are on Adam

# GT-RIPL/Continual-Learning-Benchmark; task, domain, class incremental.
STRENGTHS = {
    "l2": (0.01, 0.5, 100.0),
    "si": (300.0, 3000.0, 600.0),
    "ewc": (100.0, 100.0, 600.0),
    "online-ewc": (400.0, 700.0, 100.0),
}


@dataclass(frozen=True, kw_only=True)
class ContinualSettings(LayerSettings):
    """How a network is built and trained, once benchmark, scenario, method and layer are chosen."""

    hidden: int = 256
    """Width of the hidden layers (256 by the paper's Table 7; the released scripts and the benchmark have 400)."""
    bias: bool = False
    """Biases in the hidden layers (none in the released code; the benchmark has them)."""
    adapt: Literal["all", "hidden", "heads"] = "all"
    """Which layers are of the chosen kind; the others are plain. The paper's parameter count fits all."""
    epochs: int = 4
    """Passes over the images of each task."""
    batch_size: int = 128
    """Images a step."""
    learning_rate: float = 1e-3
    """Learning rate."""
    strength: float = 0.0
    """Weight of the penalty against forgetting."""
    reset_optimizer: bool = False
    """Forget the optimiser's statistics at the start of each task."""

    def check(self) -> None:
        """ValueError, in one line, for the first field out of range."""
        for name in ("hidden", "epochs", "batch_size"):
            check_at_least(flag(name), getattr(self, name), 1)
        check_known("--adapt", self.adapt, ("all", "hidden", "heads"))
        check_positive("--learning-rate", self.learning_rate)
        check_not_negative("--strength", self.strength)
        self.check_layers(flag)


@dataclass(frozen=True, kw_only=True)
class ContinualConfig(ContinualSettings):
    """One run: some seeds of one configuration, which train together."""

    benchmark: str
    """split-mnist, split-cifar10 or split-cifar100."""
    scenario: Literal["task", "domain", "class"]
    """Incremental tasks (a head each), domains (one head for all) or classes (one head with all classes)."""
    method: str
    """adam, adagrad, sgd, l2, si, ewc or online-ewc."""
    layer: str
    """mlp (plain), nsm, neurocoder or lowrank: every layer of the network."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of weights and order, one model each."""

    def check(self) -> None:
        """ValueError, in one line, for the first field out of range or a combination that cannot be."""
        check_known("benchmark", self.benchmark, BENCHMARKS)
        check_known("--scenario", self.scenario, SCENARIOS)
        check_known("--method", self.method, METHODS)
        check_known("--layer", self.layer, LAYERS)
        if self.strength and self.method not in STRENGTHS:
            raise ValueError(
                f"--strength {self.strength}: {self.method} has no penalty; it is for {', '.join(STRENGTHS)}"
            )
        for seed in self.seeds:
            check_at_least("--seed", seed, 0)
        super().check()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def preset(benchmark: str, *, scenario: str, method: str, layer: str, name: str = "best") -> ContinualConfig:
    """The settings of the paper (Table 6) and of the benchmark it compares with.

    Args:
        name: "table-6", where every layer is a Neurocoder without residual program; or "best", which differs from it in two
            things: only the heads are Neurocoders, and they have the residual program. The low-rank control follows.

    Raises:
        ValueError: in one line, a name that is not known.
    """
    check_known("--method", method, METHODS)
    check_known("--scenario", scenario, SCENARIOS)
    check_known("--preset", name, PRESETS)
    best = name == "best" and layer in ("neurocoder", "lowrank")
    strengths = STRENGTHS.get(method, (0.0, 0.0, 0.0))
    config = ContinualConfig(
        benchmark=benchmark,
        scenario=scenario,  # type: ignore[arg-type]
        method=method,
        layer=layer,
        neurocoder=NeurocoderSettings(
            slots=50, key_dim=5, heads=10, residual=best, orthogonality_weight=10.0
        ),
        adapt="heads" if best else "all",
        nsm=StoredProgramSettings(slots=5, key_dim=5, variant="release"),
        learning_rate=LEARNING_RATES.get(method, 1e-3),
        strength=strengths[SCENARIOS.index(scenario)],
    )
    if benchmark != "split-mnist":  # width by Table 7; the epochs are not stated
        config = replace(config, hidden=500, epochs=10, neurocoder=replace(config.neurocoder, slots=100))
    config.check()
    return config
