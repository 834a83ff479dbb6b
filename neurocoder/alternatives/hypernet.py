"""HyperNet: an affine map whose weights a small network scales for every input (paper, appendix; Ha et al. 2017).

s = f(x), W_t = s (.) W and y = x W_t + b, where f is an MLP of one or two layers with ReLU. The text does not
say whether s scales the rows of W (d_in numbers) or its elements (d_in d_out numbers). By the parameter counts
of Table 7, the polynomial network scales rows with a one-layer f, and the Atari network scales elements with a
two-layer f.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.checks import check_sizes, check_width
from neurocoder.settings import HyperNetSettings


class HyperNetLinear(nn.Module):
    """A drop-in for `nn.Linear` whose weights are scaled for every input. Starts near the plain layer.

    Args:
        settings: fields of `neurocoder.settings.HyperNetSettings` by name. Its defaults hold for those left out.

    Raises:
        TypeError: a setting is unknown.
        ValueError: a setting is out of range. The message names it.
    """

    def __init__(self, in_features: int, out_features: int, **settings: Any):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        s = HyperNetSettings(**settings)
        s.check()
        self.in_features, self.out_features = in_features, out_features
        self.scales_rows = s.scale == "rows"
        plain = nn.Linear(in_features, out_features)
        self.weight, self.bias = plain.weight, plain.bias  # (d_out, d_in), (d_out)
        self.hidden = nn.Linear(in_features, s.hidden) if s.hidden else None
        scales = in_features if self.scales_rows else in_features * out_features
        self.scale = nn.Linear(s.hidden or in_features, scales)
        # No source gives an initialisation. This one starts near the plain layer.
        nn.init.normal_(self.scale.weight, std=0.01)
        nn.init.ones_(self.scale.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        check_width("x", x, self.in_features)
        leading, x = x.shape[:-1], x.reshape(-1, self.in_features)  # (B, d_in)
        hidden = x if self.hidden is None else self.hidden(x).relu()  # (B, h)
        if self.scales_rows:
            y = F.linear(x * self.scale(hidden), self.weight, self.bias)
        else:
            # y_o = sum_i x_i W_oi (sum_k S_oik hidden_k + c_oi). Contracting x first needs d_out x B x h numbers and no
            # B x d_out x d_in scales. W is multiplied into x or into S, whichever is smaller.
            scale_weight = self.scale.weight.unflatten(0, self.weight.shape)  # (d_out, d_in, h)
            if len(x) < hidden.shape[1]:
                contracted = (x * self.weight.unsqueeze(1)) @ scale_weight  # (d_out, B, h)
            else:
                contracted = x @ (scale_weight * self.weight.unsqueeze(-1))  # (d_out, B, h)
            y = (contracted * hidden).sum(dim=-1).T  # (B, d_out)
            y = y + F.linear(x, self.weight * self.scale.bias.unflatten(0, self.weight.shape), self.bias)
        return y.reshape(*leading, self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
