"""The actor-critic loss of A3C (Mnih et al. 2016, section 4). Shapes: T steps, N games, A actions."""

from typing import NamedTuple

from torch import Tensor


class Losses(NamedTuple):
    """Scalars, summed over the T steps of a rollout, as A3C accumulates gradients, and averaged over its games."""

    policy: Tensor
    value: Tensor
    entropy: Tensor


def actor_critic_losses(
    logits: Tensor, values: Tensor, actions: Tensor, advantages: Tensor, returns: Tensor, valid: Tensor
) -> Losses:
    """Policy-gradient loss, half the squared value error and the policy's entropy (nats).

    Args:
        logits: (T, N, A), with gradient.
        values: (T, N), with gradient.
        actions: (T, N) int64.
        advantages, returns: (T, N), constants.
        valid: (T, N) bool, False where the step was no transition.
    """
    weight = valid.to(values.dtype) / valid.shape[1]
    log_policy = logits.log_softmax(dim=-1)
    log_taken = log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1)  # (T, N)
    entropy = -(log_policy.exp() * log_policy).sum(dim=-1)  # (T, N)
    return Losses(
        policy=-(weight * advantages * log_taken).sum(),
        value=(weight * 0.5 * (returns - values).square()).sum(),
        entropy=(weight * entropy).sum(),
    )
