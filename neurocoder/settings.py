"""Settings of the layers: the name, default, meaning and check of each setting. torch is not needed.

`neurocoder.output_layers` has the layers themselves.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

from neurocoder.checks import check_at_least, check_known, check_not_negative, check_positive

Named = Callable[[str], str]
"""A function from the name of a setting to the name that an error shows, such as its command-line flag."""


@dataclass(frozen=True)
class Settings:
    """The base class for the settings of one layer."""

    has_bias_option: ClassVar[bool] = True
    """Whether the layer can be made without a bias."""

    def check(self, named: Named = str) -> None:
        """Raises ValueError for the first setting that is out of range."""


@dataclass(frozen=True)
class NeurocoderSettings(Settings):
    """Settings of the Neurocoder layer. The defaults are those of the paper for Atari (Table 6)."""

    slots: int = 80
    """The number of singular programs in the memory (P)."""
    key_dim: int = 3
    """The width of keys and queries (K)."""
    heads: int = 15
    """The number of attention heads (H). A program has rank heads * max(steps, 1)."""
    steps: int = 0
    """The number of recurrent attention steps (J). 0 is the linear controller, which the paper labels J = 1."""
    least_used: int = 0
    """The number of least-used slots considered at each step (l_I). 0: none. The linear controller ignores them."""
    gate_from: Literal["input", "signal"] = "input"
    """Source of the gates between attention and least-used slots.
    "input", as in the released code, has one gate for all steps.
    "signal", the composition signal of the paper's text, has a gate for each step."""
    residual: bool = True
    """Add the gated residual program, a matrix R that is the same for all inputs."""
    keys: Literal["generated", "learned"] = "generated"
    """Compute the keys from the slot contents, or learn them as parameters."""
    gain: float = 1.0
    """Factor of the initial vectors in the memory. The first programs scale with its square."""
    beta: float | None = 10.0
    """Inverse temperature of the attention: a larger value is sharper. None takes the value of the released code:
    10 / key_dim with the recurrent controller.
    1 / key_dim with the linear controller, where attention is nearly uniform."""
    orthogonality_weight: float = 0.1
    """Weight of the orthogonality loss (a)."""
    variant: Literal["paper", "release"] = "paper"
    """Follow the paper or the released code where they differ."""

    def check(self, named: Named = str) -> None:
        for name in ("slots", "key_dim", "heads"):
            check_at_least(named(name), getattr(self, name), 1)
        check_at_least(named("steps"), self.steps, 0)
        if not 0 <= self.least_used < self.slots:
            raise ValueError(
                f"{named('least_used')} is {self.least_used}; it must be from 0 to slots - 1 = {self.slots - 1}"
            )
        if self.beta is not None and not 0 < self.beta < math.inf:
            raise ValueError(
                f"{named('beta')} is {self.beta}; it must be a finite number above 0, or None for the released code's"
            )
        check_positive(named("gain"), self.gain)
        check_not_negative(named("orthogonality_weight"), self.orthogonality_weight)
        check_known(named("gate_from"), self.gate_from, ("input", "signal"))
        check_known(named("keys"), self.keys, ("generated", "learned"))
        check_known(named("variant"), self.variant, ("paper", "release"))


@dataclass(frozen=True)
class HyperNetSettings(Settings):
    """Settings of the HyperNet layer. The defaults fit the paper's parameter count for Atari (Table 7)."""

    has_bias_option = False

    scale: Literal["rows", "elements"] = "elements"
    """Scale the rows of the weight matrix, or each of its elements."""
    hidden: int | None = 64
    """Hidden width of the network that computes the scales. None: a single affine map computes them."""

    def check(self, named: Named = str) -> None:
        check_at_least(named("hidden"), self.hidden, 1)
        check_known(named("scale"), self.scale, ("rows", "elements"))


@dataclass(frozen=True)
class FiLMSettings(Settings):
    """Settings of the FiLM layer."""

    has_bias_option = False

    hidden: int | None = 64
    """Hidden width of the network that scales and shifts the outputs. None: a single affine map does so."""

    def check(self, named: Named = str) -> None:
        check_at_least(named("hidden"), self.hidden, 1)


@dataclass(frozen=True)
class MixtureOfExpertsSettings(Settings):
    """Settings of the mixture of experts. The defaults fit the paper's parameter count for CIFAR (Table 7)."""

    has_bias_option = False

    experts: int = 50
    """The number of experts (N)."""
    active: int = 5
    """The number of experts that are computed for an input (k)."""
    hidden: int = 64
    """Hidden width of an expert."""
    balance_weight: float = 0.01
    """Weight of the losses that spread inputs evenly over the experts (importance and load)."""

    def check(self, named: Named = str) -> None:
        for name in ("experts", "active", "hidden"):
            check_at_least(named(name), getattr(self, name), 1)
        if self.active > self.experts:
            raise ValueError(
                f"{named('active')} is {self.active}; it must be at most {named('experts')} = {self.experts}"
            )
        check_not_negative(named("balance_weight"), self.balance_weight)


@dataclass(frozen=True)
class StoredProgramSettings(Settings):
    """Settings of NSM, the stored-program layer. The defaults come near the paper's count for CIFAR (Table 7)."""

    slots: int = 10
    """The number of stored programs (P)."""
    key_dim: int = 10
    """The width of keys and queries (K)."""
    key_loss_weight: float = 0.0
    """Weight of a loss that keeps keys apart, their mean pairwise cosine. The NSM paper has 0.1, decaying."""
    variant: Literal["paper", "release"] = "paper"
    """Follow the paper or the released code, which divides the cosine of query and key by key_dim."""

    def check(self, named: Named = str) -> None:
        for name in ("slots", "key_dim"):
            check_at_least(named(name), getattr(self, name), 1)
        check_not_negative(named("key_loss_weight"), self.key_loss_weight)
        check_known(named("variant"), self.variant, ("paper", "release"))


@dataclass(frozen=True)
class LayerSettings:
    """The settings of every layer: the base of the settings of a run."""

    neurocoder: NeurocoderSettings = field(default_factory=NeurocoderSettings)
    """Settings of the Neurocoder layer. The low-rank control takes its rank and initial scale from them."""
    hypernet: HyperNetSettings = field(default_factory=HyperNetSettings)
    """Settings of the HyperNet layer."""
    film: FiLMSettings = field(default_factory=FiLMSettings)
    """Settings of the FiLM layer."""
    moe: MixtureOfExpertsSettings = field(default_factory=MixtureOfExpertsSettings)
    """Settings of the mixture of experts."""
    nsm: StoredProgramSettings = field(default_factory=StoredProgramSettings)
    """Settings of the NSM layer."""

    def check_layers(self, named: Named = str) -> None:
        """Raises ValueError for the first layer setting that is out of range."""
        for group in SETTINGS:
            getattr(self, group).check(lambda name, group=group: named(f"{group}.{name}"))

    def arguments(self, layer: str) -> dict[str, Any]:
        """Returns the keyword arguments of a layer. "lowrank" has those of the Neurocoder layer."""
        group = {"mlp": None, "lowrank": "neurocoder"}.get(layer, layer)
        return asdict(getattr(self, group)) if group else {}


SETTINGS: dict[str, type[Settings]] = {f.name: f.default_factory for f in fields(LayerSettings)}  # type: ignore[misc]
"""The settings class of each layer that has settings, by name."""
LAYERS = ("mlp", *SETTINGS, "lowrank")
"""The names of the layers. "mlp" is a plain affine map. "lowrank" is a static map with the rank and initial scale of a
Neurocoder layer."""
