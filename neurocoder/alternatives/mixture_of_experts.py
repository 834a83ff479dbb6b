"""Sparse mixture of experts with noisy top-k gating (Shazeer et al. 2017), the paper's "MOE".

logits = x W_g + eps softplus(x W_n), eps standard normal, in training; x W_g in evaluation. The k largest of their softmax,
renormalised, weigh k experts; only those are computed. Where the port that the paper used compares softmaxed thresholds with
raw logits, logits are compared with logits here; its expert's softmax is left out, since ours emits logits or hidden units.
Shapes: B inputs, N experts, k chosen.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.checks import check_sizes, check_width
from neurocoder.settings import MixtureOfExpertsSettings

NOISE_FLOOR = 0.01  # smallest standard deviation of the gating noise


class MixtureOfExpertsLinear(nn.Module):
    """A drop-in for `nn.Linear`: for every input, a weighted sum of `active` of `experts` small networks.

    An expert is an MLP with one hidden layer of ReLUs.

    Args:
        settings: the fields of `neurocoder.settings.MixtureOfExpertsSettings`, by name.

    Raises:
        ValueError: a setting out of range, naming it.
    """

    def __init__(self, in_features: int, out_features: int, **settings: Any):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        s = MixtureOfExpertsSettings(**settings)
        s.check()
        self.in_features, self.out_features = in_features, out_features
        self.active, self.balance_weight = s.active, s.balance_weight
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(in_features, s.hidden), nn.ReLU(), nn.Linear(s.hidden, out_features))
            for _ in range(s.experts)
        )
        self.gate = nn.Parameter(torch.zeros(in_features, s.experts))  # W_g
        self.noise = nn.Parameter(torch.zeros(in_features, s.experts))  # W_n
        self._balance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        check_width("x", x, self.in_features)
        leading, x = x.shape[:-1], x.reshape(-1, self.in_features)  # (B, d_in)
        weights, chosen = self._route(x)  # (B, k) each
        # Sorted by expert, so that each finds its inputs side by side and rows are gathered and scattered once.
        by_expert = chosen.flatten().argsort(stable=True)  # (Bk,)
        rows = by_expert // self.active
        loads = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        parts = zip(self.experts, x[rows].split(loads), strict=True)
        answers = [expert(part) for expert, part in parts if len(part)] or [x.new_zeros(0, self.out_features)]
        weighted = weights.flatten()[by_expert].unsqueeze(-1) * torch.cat(answers)  # (Bk, d_out)
        y = weighted.new_zeros(len(x), self.out_features).index_add(0, rows, weighted)
        return y.reshape(*leading, self.out_features)

    def auxiliary_loss(self) -> Tensor:
        """Weighted CV^2(importance) + CV^2(load) of the last training batch, scalar.

        It is given out once: without a new training batch it is 0. In a recurrent network, the last batch is that of the last
        step.
        """
        balance, self._balance = self._balance, None
        return self.gate.new_zeros(()) if balance is None else self.balance_weight * balance

    def __getstate__(self) -> dict[str, Any]:
        """For copies: without the last batch's graph, which cannot be copied."""
        return self.__dict__ | {"_balance": None}

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of the chosen experts, (B, k) each."""
        clean = x @ self.gate  # (B, N)
        if not self.training:
            logits, chosen = clean.topk(self.active, dim=-1)
            return logits.softmax(dim=-1), chosen  # the softmax over all, renormalised over the chosen
        deviation = F.softplus(x @ self.noise) + NOISE_FLOOR
        noisy = clean + torch.randn_like(clean) * deviation
        top, best = noisy.topk(min(self.active + 1, noisy.shape[-1]), dim=-1)
        chosen, weights = best[:, : self.active], top[:, : self.active].softmax(dim=-1)
        importance = torch.zeros_like(noisy).scatter(-1, chosen, weights).sum(dim=0)  # (N,)
        load = self._chances(clean, noisy, deviation, top).sum(dim=0)  # (N,)
        self._balance = _squared_variation(importance) + _squared_variation(load)
        return weights, chosen

    def _chances(self, clean: Tensor, noisy: Tensor, deviation: Tensor, top: Tensor) -> Tensor:
        """(B, N): the probability that an expert is among the top k if its own noise is drawn again; `top` are k + 1 of `noisy`."""
        if self.active == noisy.shape[-1]:
            return torch.ones_like(noisy)
        last_in, first_out = top[:, -2:-1], top[:, -1:]  # the k-th and the (k+1)-th
        threshold = torch.where(noisy > first_out, first_out, last_in)  # what it has to beat without itself
        return torch.special.ndtr((clean - threshold) / deviation)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, active={self.active}"


def _squared_variation(amounts: Tensor) -> Tensor:
    """Squared coefficient of variation of (N,), 0 for one expert."""
    if len(amounts) == 1:
        return amounts.new_zeros(())
    return amounts.var() / (amounts.mean().square() + 1e-10)
