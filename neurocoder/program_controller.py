"""The Program Controller: maps an input to the composition signal that reads the Program Memory.

The composition signal of one attention step has 3HK + 1 numbers:
[queries U | queries V | queries S | integration signal].

Shapes: B inputs, J attention steps, H heads, K key width, d_c controller input. Signals have their inputs last.
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
        # The released code has four maps, each Xavier-uniform.
        for block in self.signal.weight.split((width, width, width, 1)):
            nn.init.xavier_uniform_(block)
        nn.init.normal_(self.signal.bias, std=0.01)

    def forward(self, z: Tensor) -> Tensor:
        """(B, d_c) -> composition signal (1, 3HK + 1, B)."""
        return torch.addmm(self.signal.bias.unsqueeze(1), self.signal.weight, z.T).unsqueeze(0)


class RecurrentController(nn.Module):
    """The multi-step controller: an LSTM that sees the same input J times. Its hidden state is the composition signal.

    Weights are drawn from U(-5/sqrt(d_c + h), 5/sqrt(d_c + h)) with h = 3HK + 1, the released range, which is 5 times
    the usual one.
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
        """(B, d_c) -> composition signals (J, 3HK + 1, B)."""
        # The input is the same at every step, so its part of the gates is computed once.
        from_input = torch.addmm((self.bias_ih + self.bias_hh).unsqueeze(1), self.weight_ih, z.T)  # (4h, B)
        h, c = self.h_0.unsqueeze(1).expand(-1, len(z)), self.c_0.unsqueeze(1)
        signals = []
        for _ in range(self.steps):
            i, f, g, o = torch.addmm(from_input, self.weight_hh, h).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            signals.append(h)
        return torch.stack(signals)
