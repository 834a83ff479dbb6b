"""Finds numbers that are not finite: NaN and infinities. torch is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def first_not_finite(*groups: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first tensor that holds a NaN or an infinity. None if all are finite."""
    return next(
        (name for group in groups for name, tensor in group.items() if not tensor.isfinite().all()), None
    )


def first_cause(network: nn.Module, gradients: Mapping[str, Tensor]) -> str:
    """Says what makes the norm of a gradient infinite or NaN: the first such parameter, or else the first such gradient.

    Args:
        gradients: by the names of the parameters.
    """
    if (name := first_not_finite(dict(network.named_parameters()))) is not None:
        return f"the parameter {name}"
    name = first_not_finite(gradients)
    return "the norm of the gradient" if name is None else f"the gradient of {name}"
