"""An LSTM over a rollout. Shapes: T steps, N sequences, D inputs, H units; gates in torch's order i, f, g, o."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class LSTMWeights(NamedTuple):
    """Weights as in `torch.nn.LSTMCell`, in the precision of the products with them."""

    input: Tensor
    """(4H, D)."""
    hidden: Tensor
    """(4H, H)."""
    bias: Tensor
    """The sum of both biases, (4H,)."""


def lstm_forward(
    x: Tensor, weights: LSTMWeights, h: Tensor, c: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor]:
    """x (T, N, D) -> hidden (T, N, H) and the last cell state (N, H), with first derivatives only.

    The gradient of a weight is one product over all steps. Autograd would add up T matrices as large as the
    recurrent weights.

    Args:
        weights: products with them have their precision, all else has the precision of `x`.
        h, c: (N, H), the state before the first step.
        keep: (T, N, 1), factors of the state before each step: 0 where a sequence restarts, else 1.
    """
    return _LSTM.apply(x, *weights, h, c, keep)


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
        h: Tensor,
        c: Tensor,
        keep: Tensor,
    ) -> tuple[Tensor, Tensor]:
        dtype = x.dtype
        x = x.to(weight_ih.dtype)
        # One product over the whole rollout gives the input's part of the gates. T products with h remain.
        from_input = F.linear(x, weight_ih, bias).to(dtype)  # (T, N, 4H)
        steps = []
        for gates, factor in zip(from_input, keep, strict=True):
            h, c = h * factor, c * factor
            before = (h, c)
            gates = gates + F.linear(h.to(weight_hh.dtype), weight_hh).to(gates.dtype)  # (N, 4H)
            i, f, g, o = gates.chunk(4, dim=-1)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            c = f * c + i * g
            squashed = c.tanh()
            h = o * squashed
            steps.append((h, *before, i, f, g, o, squashed))
        hidden, *factors = map(torch.stack, zip(*steps, strict=True))  # (T, N, H) each
        ctx.save_for_backward(x, weight_ih, weight_hh, keep, *factors)
        return hidden, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, keep, h_before, c_before, i, f, g, o, squashed = ctx.saved_tensors
        # Derivatives of the cell by the inputs of i, f and g.
        slopes = torch.stack((g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g)), dim=2)
        # Derivatives of the output by the input of o and by the cell.
        slope_o, slope_c = squashed * o * (1 - o), o * (1 - squashed * squashed)  # (T, N, H)
        d_h, backwards = torch.zeros_like(d_c), []
        for t in reversed(range(len(keep))):
            d_h = d_h + d_hidden[t]
            d_c = d_c + d_h * slope_c[t]
            gates = torch.cat(((d_c.unsqueeze(1) * slopes[t]).flatten(1), d_h * slope_o[t]), dim=-1)
            d_h = (gates.to(weight_hh.dtype) @ weight_hh).to(gates.dtype) * keep[t]
            d_c = d_c * f[t] * keep[t]
            backwards.append(gates)
        d_gates = torch.stack(backwards[::-1])  # (T, N, 4H)
        rows = d_gates.flatten(0, 1).to(weight_hh.dtype)  # (T N, 4H)
        d_x = (rows @ weight_ih).unflatten(0, d_gates.shape[:2]).to(d_gates.dtype)
        d_weight_ih = rows.T @ x.flatten(0, 1)  # (4H, D)
        d_weight_hh = rows.T @ h_before.flatten(0, 1).to(rows.dtype)  # (4H, H)
        d_bias = d_gates.sum((0, 1)).to(rows.dtype)
        return d_x, d_weight_ih, d_weight_hh, d_bias, d_h, d_c, None
