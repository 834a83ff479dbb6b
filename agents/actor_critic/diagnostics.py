"""Numbers that explain a run that does not learn, by their TensorBoard tags (docs/curves.md)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neurocoder.kernels.lstm import LSTMWeights

SATURATED = 0.05
"""A gate this near to 0 or 1 has hardly a gradient."""


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """Returns 1 - Var(returns - values) / Var(returns), both (n,). 1 is a perfect critic, 0 is one that knows only
    the mean.

    NaN if all returns are equal.
    """
    return 1 - (returns - values).var(correction=0) / returns.var(correction=0)


@torch.no_grad()
def describe_rollout(
    values: Tensor, advantages: Tensor, returns: Tensor, actions: Tensor, valid: Tensor, names: Sequence[str]
) -> dict[str, float]:
    """Returns scalars by tag for some steps. Those that are not finite are left out.

    Args:
        values, advantages, returns: one number for each step, all of one shape.
        actions: the same shape, int64.
        valid: the same shape, bool; False where a step does not count.
        names: the actions' names.
    """
    if not valid.any():
        return {}
    actions = actions[valid]
    shares = torch.bincount(actions, minlength=len(names)) / actions.numel()
    scalars = {
        "values/explained_variance": explained_variance(values[valid], returns[valid]).item(),
        "values/advantage_rms": advantages[valid].square().mean().sqrt().item(),
    }
    scalars |= {f"policy/action/{name}": share for name, share in zip(names, shares.tolist(), strict=True)}
    return {tag: value for tag, value in scalars.items() if abs(value) < float("inf")}


@torch.no_grad()
def describe_network(features: Tensor, hidden: Tensor, weights: LSTMWeights) -> dict[str, float]:
    """Returns scalars by tag that show whether a network sees its frames.

    Args:
        features: (T, N, F), the LSTM's inputs.
        hidden: (T, N, H), the LSTM's outputs for them.
        weights: those of the LSTM, from `lstm_weights`.
    """
    scalars = {
        "network/dead_features": (features == 0).flatten(0, 1).all(dim=0).float().mean().item(),
        "network/lstm_deviation": hidden.flatten(0, 1).std(dim=0, correction=0).mean().item(),
    }
    if len(hidden) > 1:
        x, h = (tensor.to(weights.input.dtype) for tensor in (features[-1], hidden[-2]))
        gates = F.linear(x, weights.input, weights.bias) + F.linear(h, weights.hidden)  # (N, 4H)
        i, f, _, o = gates.float().sigmoid().chunk(4, dim=-1)
        gates = torch.cat((i, f, o))
        scalars["network/saturated_gates"] = ((gates - 0.5).abs() > 0.5 - SATURATED).float().mean().item()
    return scalars


def means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each name over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
