"""Advantages and returns of a rollout. Shapes: T steps, N games."""

import torch
from torch import Tensor


def generalised_advantages(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016); gae_lambda = 1 gives A3C's n-step returns.

    Args:
        rewards: (T, N).
        values: (T + 1, N), of the observation before each step and of the last one.
        terminated: (T, N) bool, the step ended the episode: nothing follows.
        truncated: (T, N) bool, the step was the last before a cut: the observation after it has a value, which stands
            in the next row, but what follows there belongs to another game.

    Returns:
        Advantages and returns (advantage + value), (T, N) each. A row in which a game only restarts is no transition:
        nothing flows from it into the rows before, and its own numbers mean nothing.
    """
    follows = (~terminated).to(values.dtype)  # the next value counts
    goes_on = follows * (~truncated).to(values.dtype)  # the next advantage counts
    deltas = rewards + gamma * follows * values[1:] - values[:-1]
    advantages = torch.empty_like(deltas)
    advantage = torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        advantage = deltas[t] + gamma * gae_lambda * goes_on[t] * advantage
        advantages[t] = advantage
    return advantages, advantages + values[:-1]
