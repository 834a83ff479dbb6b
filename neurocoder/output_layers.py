"""The one place where an output layer is built by name.

Every layer maps (..., in_features) to (..., out_features) as `nn.Linear` does; one with extra losses has a method
`auxiliary_loss`, which `auxiliary_loss(network)` sums over a whole network.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neurocoder.alternatives.film import FiLMLinear
from neurocoder.alternatives.hypernet import HyperNetLinear
from neurocoder.alternatives.low_rank import LowRankLinear
from neurocoder.alternatives.mixture_of_experts import MixtureOfExpertsLinear
from neurocoder.alternatives.stored_program import StoredProgramLinear
from neurocoder.layer import NeurocoderLinear

OutputLayer = Callable[[int, int], nn.Module]
"""Makes a layer from its input and output width."""

OUTPUT_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": nn.Linear,
    "neurocoder": NeurocoderLinear,
    "hypernet": HyperNetLinear,
    "film": FiLMLinear,
    "moe": MixtureOfExpertsLinear,
    "nsm": StoredProgramLinear,
    "lowrank": LowRankLinear,
}
"""By name. The commands' `--layer lowrank` is `low_rank_control`: a "lowrank" of a given Neurocoder's rank and scale."""


def output_layer(name: str, **settings: Any) -> OutputLayer:
    """The factory for layer `name` with its settings fixed: `output_layer("neurocoder", slots=30, ...)(512, 6)`.

    Raises:
        ValueError: `name` is not one of OUTPUT_LAYERS.
    """
    if name not in OUTPUT_LAYERS:
        raise ValueError(f"output layer {name!r} is not known; choose one of {', '.join(OUTPUT_LAYERS)}")
    return partial(OUTPUT_LAYERS[name], **settings)


def auxiliary_loss(network: nn.Module) -> Tensor:
    """Sum of the extra losses of all layers of a network, scalar. They depend on parameters, of "moe" on the last training batch:
    add it once an update, after the forward pass."""
    methods = [getattr(layer, "auxiliary_loss", None) for layer in network.modules()]
    losses = [method() for method in methods if method is not None]
    if losses:
        return torch.stack(losses).sum()
    return next(network.parameters()).new_zeros(())
