"""Makes layers by name.

Every layer maps (..., in_features) to (..., out_features), as `nn.Linear` does. A layer with extra losses has a method
`auxiliary_loss`. The function `auxiliary_loss` sums these losses over a network.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neurocoder.alternatives.film import FiLMLinear
from neurocoder.alternatives.hypernet import HyperNetLinear
from neurocoder.alternatives.low_rank import LowRankLinear, low_rank_control
from neurocoder.alternatives.mixture_of_experts import MixtureOfExpertsLinear
from neurocoder.alternatives.stored_program import StoredProgramLinear
from neurocoder.checks import check_known
from neurocoder.layer import NeurocoderLinear
from neurocoder.settings import LAYERS, SETTINGS, LayerSettings

OutputLayer = Callable[[int, int], nn.Module]
"""A factory that makes a layer from its input and output width."""

OUTPUT_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": nn.Linear,
    "neurocoder": NeurocoderLinear,
    "hypernet": HyperNetLinear,
    "film": FiLMLinear,
    "moe": MixtureOfExpertsLinear,
    "nsm": StoredProgramLinear,
    "lowrank": LowRankLinear,
}
"""The registry: the classes of the layers by name."""


def output_layer(name: str, **settings: Any) -> OutputLayer:
    """Returns a factory for one kind of layer: `output_layer("neurocoder", slots=30)(512, 6)`.

    Raises:
        ValueError: `name` is not one of OUTPUT_LAYERS.
    """
    check_known("output layer", name, OUTPUT_LAYERS)
    return partial(OUTPUT_LAYERS[name], **settings)


def configured_layer(name: str, settings: LayerSettings, *, bias: bool = True) -> OutputLayer:
    """Returns a factory for one of `LAYERS` with its settings.

    "lowrank" is the control for the Neurocoder of these settings: a static map of its rank and initial scale.

    Args:
        bias: False leaves the bias out, in layers with `has_bias_option`.

    Raises:
        ValueError: `name` is not one of `LAYERS`.
    """
    check_known("layer", name, LAYERS)
    arguments = settings.arguments(name)
    if name not in SETTINGS or SETTINGS[name].has_bias_option:
        arguments["bias"] = bias
    if name == "lowrank":
        return partial(low_rank_control, **arguments)
    return output_layer(name, **arguments)


def auxiliary_loss(network: nn.Module) -> Tensor:
    """Sums the extra losses of all layers of a network: a scalar.

    The losses depend on the parameters, and for "moe" on the last training batch. Add the sum once an update, after the
    forward pass.
    """
    methods = [getattr(layer, "auxiliary_loss", None) for layer in network.modules()]
    losses = [method() for method in methods if method is not None]
    if losses:
        return torch.stack(losses).sum()
    return next(network.parameters()).new_zeros(())


def parameter_count(network: nn.Module) -> int:
    """Counts the trainable parameters of a network."""
    return sum(math.prod(parameter.shape) for parameter in network.parameters() if parameter.requires_grad)
