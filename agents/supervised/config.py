"""Settings of a supervised run. `agents.supervised.presets` has the paper's for every task.

Nothing heavy is imported here, so that a command line can be checked at once.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from agents.flags import flag
from agents.stored_settings import read_settings
from neurocoder.checks import check_at_least, check_known, check_not_negative, check_positive
from neurocoder.settings import LAYERS, SETTINGS, LayerSettings

NETWORKS = {
    "mnist": ("linear", "mlp"),
    "cifar10": ("mlp", "lenet", "densenet", "linear"),
    "cifar100": ("mlp", "lenet", "densenet", "linear"),
    "polynomials": ("gru",),
    "algorithms": ("ntm",),
}
"""The Main Networks that can be trained on a task, the default first."""

IMAGES = ("mnist", "cifar10", "cifar100")
"""The tasks with a data set. The others draw fresh data at every step."""


@dataclass(frozen=True, kw_only=True)
class SupervisedSettings(LayerSettings):
    """How a network is built and trained, once task, network and layer are chosen."""

    adapted: int = 1
    """For mlp and lenet: the number of affine layers, from the output on, that are of the chosen kind."""
    bias: bool = True
    """Give the output layers a bias. hypernet, film and moe always have one."""
    projection: int | None = None
    """Width of a fixed random projection of the input, before the linear network. None leaves the projection out."""
    hidden: int = 32
    """Width of the GRU, or of the NTM's controller."""

    pieces: int = 5
    """For polynomials: the chunks of a sequence, each with another polynomial (n_pa)."""
    points: int = 100
    """For polynomials: the points of a sequence (T)."""
    noise: bool = False
    """For polynomials: add Gaussian noise to the points."""
    scale: Literal["chunk", "sequence", "raw"] = "chunk"
    """For polynomials: divide each chunk or each sequence by its largest value, or neither (raw)."""
    tasks_per_sequence: int = 8
    """For algorithms: the tasks of an episode (m). The paper's text has 4, its Figure 7 has 8."""

    batch_size: int = 128
    """Inputs or sequences in each step."""
    epochs: int | None = None
    """Passes over the training images. None if --steps says how long to train."""
    steps: int | None = None
    """Optimiser steps, instead of epochs."""
    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    """The optimiser. SGD uses Nesterov's momentum if --momentum is above 0."""
    learning_rate: float = 1e-3
    """Learning rate of the optimiser."""
    momentum: float = 0.0
    """Momentum of SGD and RMSProp."""
    weight_decay: float = 0.0
    """Weight of the L2 penalty on all parameters."""
    step_decay: bool = False
    """Divide the learning rate by 10 after 50 and after 75 percent of the steps."""
    gradient_value_clip: float | None = None
    """Clip every number of the gradient to this size. None leaves the gradient as it is."""
    augment: bool = False
    """For CIFAR: flip and shift images by up to four pixels, at random."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of products: fp32, or bf16 by autocast. Weights and statistics stay in fp32."""


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(SupervisedSettings):
    """One run: a task, a Main Network, and the layer that its output layers are made of."""

    task: str
    """mnist, cifar10, cifar100, polynomials or algorithms."""
    network: str
    """The Main Network: linear, mlp, lenet, densenet, gru or ntm."""
    layer: str
    """The output layer: mlp (plain), neurocoder, hypernet, film, moe, nsm or lowrank."""
    seed: int = 1
    """Seed of weights and data."""

    @property
    def data_set(self) -> str | None:
        """The name of the task's data set. None if the task draws fresh data."""
        return self.task if self.task in IMAGES else None

    def check(self) -> None:
        """Raises ValueError, in one line, for the first setting out of range or a combination that cannot be."""
        self._check_choices()
        self._check_numbers()
        self._check_length()
        layers = {"mlp": 3, "lenet": 3}.get(self.network, 1)
        if self.adapted > layers:
            raise ValueError(
                f"--adapted is {self.adapted}; {self.network} has {layers} affine layer(s) to adapt"
            )
        if self.projection is not None and self.network != "linear":
            raise ValueError(f"--projection is for the linear network, not for {self.network}")
        if self.augment and not self.task.startswith("cifar"):
            raise ValueError(f"--augment is for CIFAR's images, not for {self.task}")
        if self.points % self.pieces:
            raise ValueError(f"--points {self.points} cannot be split into {self.pieces} equal --pieces")
        self.check_layers(flag)

    def _check_choices(self) -> None:
        check_known("task", self.task, NETWORKS)
        if self.network not in NETWORKS[self.task]:
            check_known("--network", self.network, sorted({n for names in NETWORKS.values() for n in names}))
            raise ValueError(
                f"--network {self.network} cannot learn {self.task}; its networks are {', '.join(NETWORKS[self.task])}"
            )
        check_known("--layer", self.layer, LAYERS)
        check_known("--scale", self.scale, ("chunk", "sequence", "raw"))
        check_known("--optimizer", self.optimizer, ("adam", "sgd", "rmsprop"))
        check_known("--precision", self.precision, ("fp32", "bf16"))

    def _check_numbers(self) -> None:
        counts = ("adapted", "projection", "hidden", "pieces", "points", "tasks_per_sequence", "batch_size")
        for name in (*counts, "epochs", "steps"):
            check_at_least(flag(name), getattr(self, name), 1)
        check_at_least("--seed", self.seed, 0)
        check_positive("--learning-rate", self.learning_rate)
        check_not_negative("--weight-decay", self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"--momentum is {self.momentum}; it must be from 0 to below 1")
        if self.gradient_value_clip is not None:
            check_positive("--gradient-value-clip", self.gradient_value_clip)

    def _check_length(self) -> None:
        if self.epochs is None and self.steps is None:
            raise ValueError("neither --epochs nor --steps is given; say how long to train")
        if self.epochs is not None and self.task not in IMAGES:
            raise ValueError(f"--epochs: {self.task} draws fresh data at every step; give --steps instead")

    def unused_settings(self) -> dict[str, str]:
        """Returns the settings without effect in this run, by name, each with the reason."""
        reasons = {}
        if self.optimizer == "adam":
            reasons["momentum"] = "--momentum is for sgd and rmsprop, not for adam"
        if self.task != "polynomials":
            for name in ("pieces", "points", "noise", "scale"):
                reasons[name] = f"{flag(name)} is for polynomials, not for {self.task}"
        if self.task != "algorithms":
            reasons["tasks_per_sequence"] = f"--tasks-per-sequence is for algorithms, not for {self.task}"
        if self.network not in ("gru", "ntm"):
            reasons["hidden"] = f"--hidden is for the networks gru and ntm, not for {self.network}"
        if self.layer in SETTINGS and not SETTINGS[self.layer].has_bias_option:
            reasons["bias"] = f"--no-bias: the layer {self.layer} always has a bias"
        if self.steps is not None:
            reasons["epochs"] = "--epochs and --steps are both given; leave out one of them"
        return reasons

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Any) -> Self:
        """Reads what `to_dict` gave. Raises ValueError as `read_settings`."""
        return read_settings(cls, stored)
