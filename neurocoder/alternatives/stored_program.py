"""NSM, Neural Stored-program Memory: a soft mixture of whole weight matrices (Le et al. 2020).

k_p = tanh(E_p), q = tanh(x W_q + b_q), strength = softplus(x w_s + b_s), a = softmax_p(strength cos(q, k_p))
and y = x sum_p a_p M_p (+ sum_p a_p c_p). The layer computes sum_p a_p (x M_p): one product with all programs,
and no matrix for each input.

Shapes: B inputs, P programs, K key width.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.checks import check_sizes, check_width
from neurocoder.program_memory import EPSILON
from neurocoder.settings import StoredProgramSettings


class StoredProgramLinear(nn.Module):
    """A drop-in for `nn.Linear` that mixes `slots` stored weight matrices for every input.

    Keys and programs are drawn as one Xavier-uniform matrix (gain 1.4), in which a row is a flattened program,
    as released. The bound of its entries is about ten times smaller than in a plain layer.

    Args:
        bias: give each program a bias.
        settings: fields of `neurocoder.settings.StoredProgramSettings` by name. Its defaults hold for those left out.

    Raises:
        TypeError: a setting is unknown.
        ValueError: a setting is out of range. The message names it.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, **settings: Any):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        s = StoredProgramSettings(**settings)
        s.check()
        self.in_features, self.out_features = in_features, out_features
        self.key_loss_weight = s.key_loss_weight
        self.beta = 1.0 if s.variant == "paper" else 1.0 / s.key_dim
        program_size = (in_features + bias) * out_features
        bound = 1.4 * math.sqrt(6 / (s.slots + s.key_dim + program_size))
        self.programs = nn.Parameter(torch.empty(s.slots, out_features, in_features).uniform_(-bound, bound))
        self.biases = (
            nn.Parameter(torch.empty(s.slots, out_features).uniform_(-bound, bound)) if bias else None
        )
        self.keys = nn.Parameter(torch.empty(s.slots, s.key_dim).uniform_(-bound, bound))
        self.query = nn.Linear(in_features, s.key_dim)
        self.strength = nn.Linear(in_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        check_width("x", x, self.in_features)
        leading, x = x.shape[:-1], x.reshape(-1, self.in_features)  # (B, d_in)
        attention = self.attention(x)  # (B, P)
        by_program = F.linear(x, self.programs.flatten(0, 1))  # (B, P d_out)
        by_program = by_program.unflatten(-1, (-1, self.out_features))  # (B, P, d_out)
        if self.biases is not None:
            by_program = by_program + self.biases
        return (attention.unsqueeze(1) @ by_program).squeeze(1).reshape(*leading, self.out_features)

    def auxiliary_loss(self) -> Tensor:
        """Weighted mean cosine between the keys of different programs, scalar."""
        if not self.key_loss_weight:
            return self.keys.new_zeros(())
        keys = F.normalize(self.keys.tanh(), dim=-1, eps=EPSILON)
        pairs = len(keys) * (len(keys) - 1)
        cosines = keys @ keys.T
        return self.key_loss_weight * (cosines.sum() - cosines.trace()) / max(pairs, 1)

    def attention(self, x: Tensor) -> Tensor:
        """Weights of the programs (B, P) for x (B, d_in)."""
        query = F.normalize(self.query(x).tanh(), dim=-1, eps=EPSILON)
        keys = F.normalize(self.keys.tanh(), dim=-1, eps=EPSILON)
        return (self.beta * F.softplus(self.strength(x)) * (query @ keys.T)).softmax(dim=-1)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, slots={len(self.programs)}"
