"""A static low-rank map: the control that separates the effect of composition from that of low rank.

The program of a Neurocoder layer has rank n and a certain scale at initialisation. This layer has the same rank
and scale, but the same weights for every input. So a gain of Neurocoder over this layer is due to composing
programs.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from neurocoder.checks import check_positive, check_sizes
from neurocoder.layer import NeurocoderLinear


class LowRankLinear(nn.Module):
    """A drop-in for `nn.Linear` with weights U V, U (d_in, rank) and V (rank, d_out).

    Args:
        rank: n. The program of a Neurocoder layer has rank heads * max(steps, 1).
        weight_deviation: standard deviation of the entries of U V at initialisation. None: 1 / sqrt(3 d_in), as in a
            plain layer.

    Raises:
        ValueError: a setting is out of range. The message names it.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        weight_deviation: float | None = None,
        bias: bool = True,
    ):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features, rank=rank)
        if weight_deviation is None:
            weight_deviation = 1 / math.sqrt(3 * in_features)
        check_positive("weight_deviation", weight_deviation)
        self.in_features, self.out_features = in_features, out_features
        # An entry of U V is a sum of `rank` terms of variance deviation^4.
        deviation = math.sqrt(weight_deviation / math.sqrt(rank))
        self.U = nn.Parameter(torch.randn(in_features, rank) * deviation)
        self.V = nn.Parameter(torch.randn(rank, out_features) * deviation)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        y = x @ self.U @ self.V
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.U.shape[1]}"


def low_rank_control(
    in_features: int, out_features: int, *, bias: bool = True, **neurocoder: Any
) -> LowRankLinear:
    """Makes the control for a `NeurocoderLinear` of these settings, with its rank and its initial scale.

    The scale is measured on a layer drawn for this purpose, with normally distributed inputs. The residual
    program is left out, because it is neither low-rank nor composed.

    Raises:
        TypeError: a setting is unknown.
        ValueError: a setting is out of range, or `controller_features` is among them: the control has no controller.
    """
    if neurocoder.get("controller_features") is not None:
        raise ValueError("controller_features: the low-rank control has no controller; leave it out")
    layer = NeurocoderLinear(in_features, out_features, **neurocoder | {"residual": False, "bias": False})
    with torch.no_grad():
        y = layer(torch.randn(1000, in_features))
    rank = layer.heads * max(layer.steps, 1)
    deviation = y.square().mean().sqrt().item() / math.sqrt(in_features)
    return LowRankLinear(in_features, out_features, rank=rank, weight_deviation=deviation, bias=bias)
