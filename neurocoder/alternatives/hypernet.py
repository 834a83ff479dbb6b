"""HyperNet: an affine map whose weights are scaled for every input by a small network (paper, appendix; Ha et al. 2017).

s = f(x), W_t = s (.) W, y = x W_t + b, f an MLP of one or two layers with ReLU. The text does not say whether s scales the rows
of W (d_in numbers) or its elements (d_in d_out). By the parameter counts of Table 7 the polynomial row scales rows with a
one-layer f, the Atari row elements with a two-layer f.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.checks import check_choice, check_sizes, check_width


class HyperNetLinear(nn.Module):
    """A drop-in for `nn.Linear` whose weights are scaled for every input. Starts near the plain layer.

    Args:
        scale: "rows", one number for each input feature, or "elements", one for each weight.
        hidden: width of the hidden layer of f; None for a single affine map.

    Raises:
        ValueError: a setting out of range, naming it.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        scale: Literal["rows", "elements"] = "rows",
        hidden: int | None = 64,
    ):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features, hidden=hidden)
        check_choice("scale", scale, ("rows", "elements"))
        self.in_features, self.out_features = in_features, out_features
        self.by_rows = scale == "rows"
        plain = nn.Linear(in_features, out_features)
        self.weight, self.bias = plain.weight, plain.bias  # (d_out, d_in), (d_out)
        self.hidden = nn.Linear(in_features, hidden) if hidden else None
        scales = in_features if self.by_rows else in_features * out_features
        self.scale = nn.Linear(hidden or in_features, scales)
        nn.init.normal_(
            self.scale.weight, std=0.01
        )  # no source gives an initialisation: near the plain layer
        nn.init.ones_(self.scale.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        check_width("x", x, self.in_features)
        leading, x = x.shape[:-1], x.reshape(-1, self.in_features)  # (B, d_in)
        hidden = x if self.hidden is None else self.hidden(x).relu()  # (B, h)
        if self.by_rows:
            y = F.linear(x * self.scale(hidden), self.weight, self.bias)
        else:
            # y_o = sum_i x_i W_oi (sum_k S_oik hidden_k + c_oi). Contracting x first needs d_out x B x h numbers and no
            # B x d_out x d_in scales. W is multiplied into x or into S, whichever is smaller.
            scale_weight = self.scale.weight.unflatten(0, self.weight.shape)  # (d_out, d_in, h)
            if len(x) < hidden.shape[1]:
                by_hidden = (x * self.weight.unsqueeze(1)) @ scale_weight  # (d_out, B, h)
            else:
                by_hidden = x @ (scale_weight * self.weight.unsqueeze(-1))
            y = (by_hidden * hidden).sum(dim=-1).T  # (B, d_out)
            y = y + F.linear(x, self.weight * self.scale.bias.unflatten(0, self.weight.shape), self.bias)
        return y.reshape(*leading, self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
