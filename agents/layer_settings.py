"""Settings of the output layers, as a command line gives them, and the layers made from them.

Nothing heavy is imported here but in `layer_factory`, so that a command line can be checked at once.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from neurocoder import OutputLayer

LAYERS = ("mlp", "neurocoder", "hypernet", "film", "moe", "nsm", "lowrank")


@dataclass(frozen=True)
class NeurocoderSettings:
    """The Neurocoder layer: see `neurocoder.NeurocoderLinear`. Defaults: the paper's Table 6, Atari."""

    slots: int = 80
    """P, singular programs in memory."""
    key_dim: int = 3
    """K, width of keys and queries."""
    heads: int = 15
    """H, attention heads."""
    steps: int = 0
    """J, recurrent attention steps; 0 is the linear controller (labelled J = 1 in the paper)."""
    least_used: int = 0
    """l_I, least-used slots considered; acts with the recurrent controller only. 0: no usage-based attention."""
    gate_from: Literal["input", "signal"] = "input"
    """What the gates between attention and least-used slots are made from."""
    residual: bool = True
    """Add the gated residual program R."""
    keys: Literal["generated", "learned"] = "generated"
    """Keys from the slot contents, or as parameters."""
    gain: float = 1.0
    """Of the vectors' initialisation; the first programs scale with its square."""
    beta: float | None = 10.0
    """Inverse temperature of the attention; None is the released code's, at which attention is nearly uniform."""
    orthogonality_weight: float = 0.1
    """a, weight of the orthogonality loss."""
    variant: Literal["paper", "release"] = "paper"
    """Where text and released code differ, which one to follow."""

    def check(self) -> None:
        """ValueError, in one line, for the first field out of range."""
        for name in ("slots", "key_dim", "heads"):
            check_at_least(f"neurocoder.{name}", getattr(self, name), 1)
        check_at_least("neurocoder.steps", self.steps, 0)
        if not 0 <= self.least_used < self.slots:
            raise ValueError(
                f"--neurocoder.least-used is {self.least_used}; it must be from 0 to slots - 1 = {self.slots - 1}"
            )
        if self.beta is not None and not 0 < self.beta < math.inf:
            raise ValueError(f"--neurocoder.beta is {self.beta}; it must be a finite number above 0, or None")
        check_positive("neurocoder.gain", self.gain)
        check_not_negative("neurocoder.orthogonality_weight", self.orthogonality_weight)
        check_known("neurocoder.gate_from", self.gate_from, ("input", "signal"))
        check_known("neurocoder.keys", self.keys, ("generated", "learned"))
        check_known("neurocoder.variant", self.variant, ("paper", "release"))


@dataclass(frozen=True)
class HyperNetSettings:
    """The HyperNet layer: see `neurocoder.alternatives.hypernet`. Defaults: what fits the paper's Table 7, Atari."""

    scale: Literal["rows", "elements"] = "elements"
    """Scale the rows of the weight matrix, or each of its elements."""
    hidden: int | None = 64
    """Hidden width of the network that scales the weights; None: a single affine map."""

    def check(self) -> None:
        """ValueError, in one line, for the first field out of range."""
        check_at_least("hypernet.hidden", self.hidden, 1)
        check_known("hypernet.scale", self.scale, ("rows", "elements"))


@dataclass(frozen=True)
class FiLMSettings:
    """The FiLM layer: see `neurocoder.alternatives.film`."""

    hidden: int | None = 64
    """Hidden width of the network that modulates the outputs; None: a single affine map."""

    def check(self) -> None:
        """ValueError, in one line, for the first field out of range."""
        check_at_least("film.hidden", self.hidden, 1)


@dataclass(frozen=True)
class MixtureOfExpertsSettings:
    """The mixture of experts: see `neurocoder.alternatives.mixture_of_experts`. Defaults: what fits Table 7, CIFAR."""

    experts: int = 50
    """Experts."""
    active: int = 5
    """Experts that an input is given to."""
    hidden: int = 64
    """Hidden width of an expert."""
    balance_weight: float = 0.01
    """Weight of the importance and load losses."""

    def check(self) -> None:
        """ValueError, in one line, for the first field out of range."""
        for name in ("experts", "active", "hidden"):
            check_at_least(f"moe.{name}", getattr(self, name), 1)
        if self.active > self.experts:
            raise ValueError(
                f"--moe.active is {self.active}; it must be at most --moe.experts, {self.experts}"
            )
        check_not_negative("moe.balance_weight", self.balance_weight)


@dataclass(frozen=True)
class StoredProgramSettings:
    """NSM: see `neurocoder.alternatives.stored_program`. Defaults: what comes near Table 7, CIFAR."""

    slots: int = 10
    """P, stored programs."""
    key_dim: int = 10
    """K, width of keys and queries."""
    key_loss_weight: float = 0.0
    """Weight of the mean pairwise cosine of the keys."""
    variant: Literal["paper", "release"] = "paper"
    """"release" divides the cosine by K."""

    def check(self) -> None:
        """ValueError, in one line, for the first field out of range."""
        for name in ("slots", "key_dim"):
            check_at_least(f"nsm.{name}", getattr(self, name), 1)
        check_not_negative("nsm.key_loss_weight", self.key_loss_weight)
        check_known("nsm.variant", self.variant, ("paper", "release"))


@dataclass(frozen=True)
class LayerSettings:
    """Settings of every layer that a network can be given: the base of what configures a run.

    The layer "mlp" has none; "lowrank" is the control for the Neurocoder of these settings.
    """

    neurocoder: NeurocoderSettings = field(default_factory=NeurocoderSettings)
    """Settings of the Neurocoder layer, whose rank and initial scale the low-rank control has."""
    hypernet: HyperNetSettings = field(default_factory=HyperNetSettings)
    """Settings of the HyperNet layer."""
    film: FiLMSettings = field(default_factory=FiLMSettings)
    """Settings of the FiLM layer."""
    moe: MixtureOfExpertsSettings = field(default_factory=MixtureOfExpertsSettings)
    """Settings of the mixture of experts."""
    nsm: StoredProgramSettings = field(default_factory=StoredProgramSettings)
    """Settings of the NSM layer."""

    def check(self) -> None:
        """ValueError, in one line, for the first field out of range."""
        for settings in (self.neurocoder, self.hypernet, self.film, self.moe, self.nsm):
            settings.check()

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`. TypeError if there are fields this version does not know, KeyError for a missing group."""
        groups = {
            "neurocoder": NeurocoderSettings,
            "hypernet": HyperNetSettings,
            "film": FiLMSettings,
            "moe": MixtureOfExpertsSettings,
            "nsm": StoredProgramSettings,
        }
        return cls(**fields | {name: group(**fields[name]) for name, group in groups.items()})


def layer_factory(name: str, settings: LayerSettings, *, bias: bool = True) -> "OutputLayer":
    """Makes layers `name` of these settings. `bias` is for the layers that know one without: hypernet, film, moe do not."""
    from neurocoder.alternatives.low_rank import low_rank_control
    from neurocoder.output_layers import output_layer

    match name:
        case "mlp":
            return output_layer("mlp", bias=bias)
        case "neurocoder" | "nsm":
            return output_layer(name, bias=bias, **asdict(getattr(settings, name)))
        case "lowrank":
            return partial(low_rank_control, bias=bias, **asdict(settings.neurocoder))
        case _:
            return output_layer(name, **asdict(getattr(settings, name)))


def check_known(name: str, value: str, choices: Iterable[str]) -> None:
    """ValueError for a name that is not one of the choices, with the nearest of them."""
    choices = tuple(choices)
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"{flag(name)} {value!r} is not known; choose one of {', '.join(choices)}{hint}")


def check_at_least(name: str, value: int | None, low: int) -> None:
    """ValueError for a value below `low`. None stands for a part that is left out."""
    if value is not None and value < low:
        raise ValueError(
            f"{flag(name)} is {value}; it must be {'0 or more' if low == 0 else f'at least {low}'}"
        )


def check_not_negative(name: str, value: float) -> None:
    """ValueError for a number below 0, infinite or not a number."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{flag(name)} is {value}; it must be a finite number, 0 or more")


def check_positive(name: str, value: float) -> None:
    """ValueError for a number that is not above 0, infinite or not a number."""
    if not 0 < value < math.inf:
        raise ValueError(f"{flag(name)} is {value}; it must be a finite number above 0")


def flag(name: str) -> str:
    """A field as it is named on the command line, where the first word needs no name."""
    return name if name in ("task", "benchmark") else "--" + name.replace("_", "-")
