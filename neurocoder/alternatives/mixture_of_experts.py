"""Sparse mixture of experts with noisy top-k gating (Shazeer et al. 2017), the paper's "MOE".

In training logits = x W_g + eps softplus(x W_n), with eps standard normal. In evaluation logits = x W_g. The k
largest entries of their softmax, renormalised, weigh k experts. Only those experts are computed.

The port that the paper used compares softmaxed thresholds with raw logits; here logits are compared with
logits. The softmax of that port's experts is left out, because the experts here emit logits or hidden units.

Shapes: B inputs, N experts, k of them chosen.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.checks import check_sizes, check_width
from neurocoder.settings import MixtureOfExpertsSettings

NOISE_FLOOR = 0.01
"""Smallest standard deviation of the gating noise."""


class MixtureOfExpertsLinear(nn.Module):
    """A drop-in for `nn.Linear`: for every input, a weighted sum of `active` of `experts` small networks.

    An expert is an MLP with one hidden layer of ReLUs.

    Args:
        settings: fields of `neurocoder.settings.MixtureOfExpertsSettings` by name. Its defaults hold for those
            left out.

    Raises:
        TypeError: a setting is unknown.
        ValueError: a setting is out of range. The message names it.
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
        # Sorted by expert, so that the inputs of an expert lie side by side, and rows are gathered and scattered once.
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

        A second call without a new training batch returns 0. In a recurrent network, the last batch is that of
        the last step.
        """
        balance, self._balance = self._balance, None
        return self.gate.new_zeros(()) if balance is None else self.balance_weight * balance

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the graph of the last batch, which cannot be copied."""
        return self.__dict__ | {"_balance": None}

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Chooses k experts for each input. Returns their weights and indices, (B, k) each."""
        clean = x @ self.gate  # (B, N)
        if not self.training:
            logits, chosen = clean.topk(self.active, dim=-1)
            # The softmax over all experts, renormalised over the chosen ones.
            return logits.softmax(dim=-1), chosen
        deviation = F.softplus(x @ self.noise) + NOISE_FLOOR
        noisy = clean + torch.randn_like(clean) * deviation
        top, best = noisy.topk(min(self.active + 1, noisy.shape[-1]), dim=-1)
        chosen, weights = best[:, : self.active], top[:, : self.active].softmax(dim=-1)
        importance = torch.zeros_like(noisy).scatter(-1, chosen, weights).sum(dim=0)  # (N,)
        load = self._chances(clean, noisy, deviation, top).sum(dim=0)  # (N,)
        self._balance = _squared_variation(importance) + _squared_variation(load)
        return weights, chosen

    def _chances(self, clean: Tensor, noisy: Tensor, deviation: Tensor, top: Tensor) -> Tensor:
        """The probability (B, N) that an expert is among the top k when its noise alone is drawn again.

        Args:
            top: the k + 1 largest entries of `noisy`, (B, k + 1).
        """
        if self.active == noisy.shape[-1]:
            return torch.ones_like(noisy)
        last_in, first_out = top[:, -2:-1], top[:, -1:]
        # The k-th largest of the other experts' logits.
        threshold = torch.where(noisy > first_out, first_out, last_in)
        return torch.special.ndtr((clean - threshold) / deviation)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, active={self.active}"


def _squared_variation(amounts: Tensor) -> Tensor:
    """Squared coefficient of variation of amounts (N,); 0 for a single expert."""
    if len(amounts) == 1:
        return amounts.new_zeros(())
    return amounts.var() / (amounts.mean().square() + 1e-10)
