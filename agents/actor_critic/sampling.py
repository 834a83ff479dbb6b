"""How actions are drawn from a policy."""

import torch
from torch import Tensor


def sample_actions(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Draws an action for every game: probabilities (N, A) -> (N,) int64.

    It draws what `torch.multinomial` draws, without the checks that make a GPU wait and an error of probabilities
    that are not finite. Those give some action. Whoever uses the policy checks it, once a rollout or an answer.
    """
    race = torch.empty_like(probabilities).exponential_(1, generator=generator)
    return (probabilities / race).argmax(dim=-1)
