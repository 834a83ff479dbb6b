"""The Program Controller: from an input to the composition signal that reads the Program Memory.

The composition signal of one attention step is [queries U | queries V | queries S | integration signal], 3HK + 1 numbers.
Shapes: B inputs, J attention steps, H heads, K key width, d_c controller input.
"""

import math

import torch
from torch import Tensor, nn


class LinearController(nn.Module):
    """The single-step controller ("J = 1" in the paper's Table 6): an affine map, one attention step."""

    def __init__(self, in_features: int, *, heads: int, key_dim: int):
        super().__init__()
        width = heads * key_dim
        self.signal = nn.Linear(in_features, 3 * width + 1)
        for block in self.signal.weight.split(
            (width, width, width, 1)
        ):  # released: four maps, each Xavier-uniform
            nn.init.xavier_uniform_(block)
        nn.init.normal_(self.signal.bias, std=0.01)

    def forward(self, z: Tensor) -> Tensor:
        """(B, d_c) -> composition signal (B, 1, 3HK + 1)."""
        return self.signal(z).unsqueeze(1)


class RecurrentController(nn.Module):
    """The multi-step controller: an LSTM that sees the same input J times, its hidden state being the composition signal.

    Weights are drawn from U(-5/sqrt(d_c + h), 5/sqrt(d_c + h)), the released range (5 times the usual).
    """

    def __init__(self, in_features: int, *, heads: int, key_dim: int, steps: int):
        super().__init__()
        hidden = 3 * heads * key_dim + 1
        self.steps = steps
        bound = 5 / math.sqrt(in_features + hidden)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, in_features).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.zeros(4 * hidden))
        self.bias_hh = nn.Parameter(torch.zeros(4 * hidden))
        self.h_0 = nn.Parameter(torch.empty(hidden).normal_(std=0.05))
        self.c_0 = nn.Parameter(torch.empty(hidden).normal_(std=0.05))

    def forward(self, z: Tensor) -> Tensor:
        """(B, d_c) -> composition signals (B, J, 3HK + 1)."""
        # The input is the same at every step, so its share of the gates is computed once.
        from_input = nn.functional.linear(z, self.weight_ih, self.bias_ih + self.bias_hh)  # (B, 4h)
        h, c = self.h_0.expand(len(z), -1), self.c_0.expand(len(z), -1)
        signals = []
        for _ in range(self.steps):
            i, f, g, o = (from_input + h @ self.weight_hh.T).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            signals.append(h)
        return torch.stack(signals, dim=1)
