"""HyperNet: an affine map whose weights are scaled for every input by a small network (paper, appendix; Ha et al. 2017).

s = f(x), W_t = s (.) W, y = x W_t + b, f an MLP with one hidden layer of ReLUs. The scale is element-wise, the reading that
the parameter count of the paper's Atari row fits (Table 7, 3.6 M).
"""

import torch
from torch import Tensor, nn

from neurocoder.settings import check_sizes


class HyperNetLinear(nn.Module):
    """A drop-in for `nn.Linear` with element-wise weight scales from a two-layer network. Starts as the plain layer.

    Raises:
        ValueError: a size below 1, naming it.
    """

    def __init__(self, in_features: int, out_features: int, *, hidden: int = 64):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features, hidden=hidden)
        self.in_features, self.out_features = in_features, out_features
        plain = nn.Linear(in_features, out_features)
        self.weight, self.bias = plain.weight, plain.bias  # (d_out, d_in), (d_out)
        self.hidden = nn.Linear(in_features, hidden)
        self.scale = nn.Linear(hidden, in_features * out_features)
        nn.init.normal_(
            self.scale.weight, std=0.01
        )  # no source gives an initialisation: near the plain layer
        nn.init.ones_(self.scale.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        leading, x = x.shape[:-1], x.reshape(-1, self.in_features)  # (B, d_in)
        hidden = self.hidden(x).relu()  # (B, h)
        # y_o = sum_i x_i W_oi (sum_k S_oik hidden_k + c_oi). Contracting x first needs B x d_out x h numbers and no
        # B x d_out x d_in scales.
        shape = (self.out_features, self.in_features)
        scale_weight = self.scale.weight.unflatten(0, shape) * self.weight.unsqueeze(-1)  # (d_out, d_in, h)
        by_hidden = torch.tensordot(x, scale_weight, dims=([1], [1]))  # (B, d_out, h)
        y = (by_hidden @ hidden.unsqueeze(-1)).squeeze(-1)
        y = y + nn.functional.linear(x, self.weight * self.scale.bias.unflatten(0, shape), self.bias)
        return y.reshape(*leading, self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
