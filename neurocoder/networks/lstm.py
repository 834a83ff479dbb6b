"""The recurrent part of an LSTM over a rollout. Shapes: T steps, N sequences, H units; gates in torch's order i, f, g, o."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def lstm_recurrence(
    from_input: Tensor, weight_hh: Tensor, h: Tensor, c: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor]:
    """The input's share of the gates, biases included, (T, N, 4H) -> hidden (T, N, H) and the last cell state (N, H).

    The gradient of the recurrent weights is one product over all steps; autograd would add up T matrices as large as the
    weights. First derivatives only.

    Args:
        weight_hh: (4H, H), as in `torch.nn.LSTMCell`. Products with it are computed in its precision, all else in that of
            `from_input`.
        h, c: (N, H), the state before the first step.
        keep: (T, N, 1), what the state is multiplied by before each step: 0 where a sequence begins anew, else 1.
    """
    return _Recurrence.apply(from_input, weight_hh, h, c, keep)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, from_input: Tensor, weight_hh: Tensor, h: Tensor, c: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        steps = []
        for own, kept in zip(from_input, keep, strict=True):
            h, c = h * kept, c * kept
            before = (h, c)
            gates = own + F.linear(h.to(weight_hh.dtype), weight_hh).to(own.dtype)  # (N, 4H)
            i, f, g, o = gates.chunk(4, dim=-1)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            c = f * c + i * g
            squashed = c.tanh()
            h = o * squashed
            steps.append((h, *before, i, f, g, o, squashed))
        hidden, *rest = map(torch.stack, zip(*steps, strict=True))  # (T, N, H) each
        ctx.save_for_backward(weight_hh, keep, *rest)
        return hidden, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        weight_hh, keep, h_before, c_before, i, f, g, o, squashed = ctx.saved_tensors
        # What a gate's input does to the cell (i, f, g) or to the output (o), and the cell to the output.
        slopes = torch.stack((g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g)), dim=2)
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
        d_gates_rows, h_rows = (x.flatten(0, 1).to(weight_hh.dtype) for x in (d_gates, h_before))
        d_weight = d_gates_rows.T @ h_rows  # (4H, H)
        return d_gates, d_weight, d_h, d_c, None
