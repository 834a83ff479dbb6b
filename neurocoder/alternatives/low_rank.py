"""A static low-rank map: the control that tells composition from low rank.

A Neurocoder layer's program has rank n and a certain scale at initialisation. This layer has the same rank and scale, but the
same weights for every input: what Neurocoder gains over it is due to composing programs.
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
        rank: n; of a Neurocoder layer, heads * max(steps, 1).
        weight_deviation: standard deviation of the entries of U V at initialisation; None for a plain layer's,
            1 / sqrt(3 d_in).

    Raises:
        ValueError: a setting out of range, naming it.
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
    """The control for a `NeurocoderLinear` of these settings: its rank, and at initialisation its scale.

    The scale is measured on a layer drawn for it, with normally distributed inputs. The residual program is left out: it is
    neither low-rank nor composed.

    Raises:
        ValueError: a setting out of range, or `controller_features`: the control has no controller.
    """
    if neurocoder.get("controller_features") is not None:
        raise ValueError("controller_features: the low-rank control has no controller; leave it out")
    layer = NeurocoderLinear(in_features, out_features, **neurocoder | {"residual": False, "bias": False})
    with torch.no_grad():
        y = layer(torch.randn(1000, in_features))
    rank = layer.heads * max(layer.steps, 1)
    deviation = y.square().mean().sqrt().item() / math.sqrt(in_features)
    return LowRankLinear(in_features, out_features, rank=rank, weight_deviation=deviation, bias=bias)
