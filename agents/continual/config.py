"""Settings of a continual-learning run. `agents.continual.presets` has the benchmark's and the paper's for each method.

Nothing heavy is imported here, so that a command line can be checked at once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from agents.flags import flag
from agents.stored_settings import read_settings
from neurocoder.checks import check_at_least, check_known, check_not_negative, check_positive
from neurocoder.settings import LayerSettings, NeurocoderSettings, StoredProgramSettings

BENCHMARKS = {"split-mnist": "mnist", "split-cifar10": "cifar10", "split-cifar100": "cifar100"}
"""The data set of each benchmark."""
SCENARIOS = ("task", "domain", "class")
LAYER_CHOICES = ("mlp", "nsm", "neurocoder", "lowrank")
"""The layers that can be trained, a choice among `neurocoder.settings.LAYERS`."""
PENALTIES = ("l2", "si", "ewc", "online-ewc")
"""The methods with a penalty against forgetting, which has a strength."""
METHODS = ("adam", "adagrad", "sgd", *PENALTIES)
DROPPED_GROUPS = ("hypernet", "film", "moe")
"""Settings of layers that no run can have. Earlier versions stored them."""


@dataclass(frozen=True, kw_only=True)
class ContinualSettings:
    """How a network is built and trained, once benchmark, scenario, method and layer are chosen."""

    neurocoder: NeurocoderSettings = field(default_factory=NeurocoderSettings)
    """Settings of the Neurocoder layer. The low-rank control has its rank and initial scale."""
    nsm: StoredProgramSettings = field(default_factory=StoredProgramSettings)
    """Settings of the NSM layer."""
    hidden: int = 256
    """Width of the hidden layers. The paper's Table 7 fits 256; the released scripts and the benchmark have 400."""
    bias: bool = False
    """Give the hidden layers biases. The benchmark has them, the released code has none."""
    adapt: Literal["all", "hidden", "heads"] = "all"
    """The layers that are of the chosen kind; the others are plain. The paper's parameter count fits all."""
    epochs: int = 4
    """Passes over the images of each task."""
    batch_size: int = 128
    """Images in each step."""
    learning_rate: float = 1e-3
    """Learning rate of the optimiser."""
    strength: float = 0.0
    """Weight of the penalty against forgetting."""
    reset_optimizer: bool = False
    """Reset the optimiser's statistics at the start of each task."""

    def layer_settings(self) -> LayerSettings:
        """Returns the settings of all layers. Those that no run can have are the defaults."""
        return LayerSettings(neurocoder=self.neurocoder, nsm=self.nsm)

    def check(self) -> None:
        """Raises ValueError, in one line, for the first setting that is out of range."""
        for name in ("hidden", "epochs", "batch_size"):
            check_at_least(flag(name), getattr(self, name), 1)
        check_known("--adapt", self.adapt, ("all", "hidden", "heads"))
        check_positive("--learning-rate", self.learning_rate)
        check_not_negative("--strength", self.strength)
        self.layer_settings().check_layers(flag)


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
    """The kind of every layer of the network: mlp (plain), nsm, neurocoder or lowrank."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of weights and order, one model each."""

    @property
    def data_set(self) -> str:
        """The name of the data set that the benchmark is made of."""
        return BENCHMARKS[self.benchmark]

    def check(self) -> None:
        """Raises ValueError, in one line, for the first setting out of range or a combination that cannot be."""
        check_known("benchmark", self.benchmark, BENCHMARKS)
        check_known("--scenario", self.scenario, SCENARIOS)
        check_known("--method", self.method, METHODS)
        check_known("--layer", self.layer, LAYER_CHOICES)
        if self.strength and self.method not in PENALTIES:
            raise ValueError(
                f"--strength {self.strength}: {self.method} has no penalty; it is for {', '.join(PENALTIES)}"
            )
        for seed in self.seeds:
            check_at_least("--seed", seed, 0)
        super().check()

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Any) -> Self:
        """Reads what `to_dict` gave, now or in an earlier version. Raises ValueError as `read_settings`."""
        if isinstance(stored, Mapping):
            stored = {name: value for name, value in stored.items() if name not in DROPPED_GROUPS}
        return read_settings(cls, stored)
