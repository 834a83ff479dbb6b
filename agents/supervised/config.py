"""Settings of one supervised run. `agents.supervised.presets` has the paper's for every task.

Nothing heavy is imported here, so that a command line can be checked at once.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from agents.flags import flag
from neurocoder.checks import check_at_least, check_known, check_not_negative, check_positive
from neurocoder.settings import LAYERS, LayerSettings

NETWORKS = {
    "mnist": ("linear", "mlp"),
    "cifar10": ("mlp", "lenet", "densenet", "linear"),
    "cifar100": ("mlp", "lenet", "densenet", "linear"),
    "polynomials": ("gru",),
    "algorithms": ("ntm",),
}
"""The Main Networks that can be trained on a task, the default first."""

IMAGES = ("mnist", "cifar10", "cifar100")
"""Tasks with a data set; the others draw fresh data at every step."""


@dataclass(frozen=True, kw_only=True)
class SupervisedSettings(LayerSettings):
    """How a network is built and trained, once task, network and layer are chosen."""

    adapted: int = 1
    """How many affine layers, counted from the output, are of this kind; the rest is plain. For mlp and lenet."""
    bias: bool = True
    """Give the output layers a bias; hypernet, film and moe always have one."""
    projection: int | None = None
    """Width of a fixed random projection of the input, before the linear network; None for none."""
    hidden: int = 32
    """Width of the GRU, or of the NTM's controller."""

    pieces: int = 5
    """Polynomials: chunks of a sequence, each a polynomial of its own (n_pa)."""
    points: int = 100
    """Polynomials: points of a sequence (T)."""
    noise: bool = False
    """Polynomials: add Gaussian noise to the points."""
    scale: Literal["chunk", "sequence", "raw"] = "chunk"
    """Polynomials: what is divided by its largest value."""
    tasks_per_sequence: int = 8
    """Algorithms: tasks of an episode (m; the paper's text has 4, its Figure 7 has 8)."""

    batch_size: int = 128
    """Inputs or sequences a step."""
    epochs: int | None = None
    """Passes over the training images; None where --steps says how long."""
    steps: int | None = None
    """Optimiser steps, instead of epochs."""
    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    """Adam; SGD, with Nesterov's momentum if there is any; RMSProp."""
    learning_rate: float = 1e-3
    """Learning rate."""
    momentum: float = 0.0
    """Of SGD and RMSProp."""
    weight_decay: float = 0.0
    """L2 penalty on all parameters."""
    step_decay: bool = False
    """Divide the learning rate by 10 after 50 and after 75 percent of the steps."""
    gradient_value_clip: float | None = None
    """Clip every number of the gradient to this size; None for not at all."""
    augment: bool = False
    """Images: flip and shift by up to four pixels, at random."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: products in bfloat16 by autocast; weights and statistics stay in single precision."""


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(SupervisedSettings):
    """One run: a task, a Main Network, and the layer that its output layers are made of."""

    task: str
    """mnist, cifar10, cifar100, polynomials or algorithms."""
    network: str
    """Main Network: linear, mlp, lenet, densenet, gru or ntm."""
    layer: str
    """Output layer: mlp (plain), neurocoder, hypernet, film, moe, nsm or lowrank."""
    seed: int = 1
    """Seed of weights and data."""

    def check(self) -> None:
        """ValueError, in one line, for the first field out of range or a combination that cannot be."""
        check_known("task", self.task, NETWORKS)
        if self.network not in NETWORKS[self.task]:
            check_known("--network", self.network, sorted({n for names in NETWORKS.values() for n in names}))
            raise ValueError(
                f"--network {self.network} cannot learn {self.task}; its networks are {', '.join(NETWORKS[self.task])}"
            )
        check_known("--layer", self.layer, LAYERS)
        for name in (
            "adapted",
            "projection",
            "hidden",
            "pieces",
            "points",
            "tasks_per_sequence",
            "batch_size",
        ):
            check_at_least(flag(name), getattr(self, name), 1)
        check_at_least("--seed", self.seed, 0)
        for name, value in (("epochs", self.epochs), ("steps", self.steps)):
            check_at_least(flag(name), value, 1)
        if self.epochs is None and self.steps is None:
            raise ValueError("neither --epochs nor --steps is given; say how long to train")
        if self.epochs is not None and self.task not in IMAGES:
            raise ValueError(f"--epochs: {self.task} draws fresh data at every step; give --steps instead")
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
        check_known("--scale", self.scale, ("chunk", "sequence", "raw"))
        check_known("--optimizer", self.optimizer, ("adam", "sgd", "rmsprop"))
        check_known("--precision", self.precision, ("fp32", "bf16"))
        check_positive("--learning-rate", self.learning_rate)
        check_not_negative("--weight-decay", self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"--momentum is {self.momentum}; it must be from 0 to below 1")
        if self.gradient_value_clip is not None:
            check_positive("--gradient-value-clip", self.gradient_value_clip)
        self.check_layers(flag)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
