"""The Neurocoder layer: an affine map whose weights are composed anew for every input.

    P_t = sum_n sigma_n u_n v_n^T + lambda R,    y = x P_t + b

u_n, v_n and sigma_n are read from the Program Memory by attention. Since they are linear in the memories, P_t is never built:

    y = ((((x M_U^T) . w^U) sigma) w^V) M_V + lambda (x R) + b

which needs memory B x n x P for attention and two dense products with the memories, not B x d_in x d_out.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.program_controller import LinearController, RecurrentController
from neurocoder.program_memory import ProgramMemory, Variant, interpolate_with_least_used, similarity
from neurocoder.settings import check_choice


@dataclass(frozen=True)
class ProgramTrace:
    """How the programs of a batch were composed. Leading axes `...` are those of the input."""

    attention: Tensor  # (..., J, 3, H, P) over the slots of U, V, S
    singular_values: Tensor  # (..., n)
    residual_gate: Tensor | None  # (...), lambda; None without residual program


class NeurocoderLinear(nn.Module):
    """A drop-in for `nn.Linear` that composes its weights for each input from `slots` singular programs.

    Args:
        in_features, out_features: d_in and d_out of the map.
        slots: P, singular programs in memory.
        key_dim: K, width of keys and queries.
        heads: H, attention heads. The program has rank n = heads * max(steps, 1).
        steps: J, attention steps of the recurrent controller; 0 is the linear controller, which is what the paper's
            rows labelled "J = 1" used (its parameter counts fit no other reading).
        least_used: l_I, least-used slots considered at each step; 0 switches usage-based attention off. It acts in the
            recurrent controller only: the linear one takes a single step, before which nothing is used.
        residual: add the residual program R, gated by the integration signal (Table 6, "Use R").
        keys: "generated" from the slot contents by an affine map, or "learned".
        beta: inverse temperature on the cosine similarity. None takes the released code's, 10 / K with the recurrent
            controller and 1 / K with the linear one: there the norms are multiplied by a product over K equal columns,
            which divides the cosine by K. At 1 / K attention is nearly uniform whatever is learnt; 10 is the
            presumable intention.
        orthogonality_weight: a, weight of the orthogonality loss in `auxiliary_loss` (Table 6).
        bias: add a learnt bias.
        variant: "paper" or "release", the places where the text and the authors' code differ. "release" accumulates the
            singular values forward (then flips them in the recurrent controller), keeps key parameters that only its
            orthogonality loss uses, and adds the released epsilons to the cosine.

    Raises:
        ValueError: a setting out of range, naming it.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        slots: int,
        key_dim: int,
        heads: int,
        steps: int = 0,
        least_used: int = 0,
        residual: bool = True,
        keys: Literal["generated", "learned"] = "generated",
        beta: float | None = None,
        orthogonality_weight: float = 0.1,
        bias: bool = True,
        variant: Variant = "paper",
    ):
        super().__init__()
        sizes = dict(
            in_features=in_features, out_features=out_features, slots=slots, key_dim=key_dim, heads=heads
        )
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1")
        if steps < 0:
            raise ValueError(
                f"steps is {steps}; it must be 0 (linear controller) or the number of recurrent steps"
            )
        if not 0 <= least_used < slots:
            raise ValueError(f"least_used is {least_used}; it must be from 0 to slots - 1 = {slots - 1}")
        if beta is not None and not 0 < beta < math.inf:
            raise ValueError(f"beta is {beta}; it must be above 0, or None for the released code's")
        if not 0 <= orthogonality_weight < math.inf:
            raise ValueError(f"orthogonality_weight is {orthogonality_weight}; it must be 0 or more")
        check_choice("keys", keys, ("generated", "learned"))
        check_choice("variant", variant, ("paper", "release"))
        self.in_features, self.out_features = in_features, out_features
        self.heads, self.key_dim, self.steps, self.least_used = heads, key_dim, steps, least_used
        self.variant, self.orthogonality_weight = variant, orthogonality_weight
        self.beta = beta if beta is not None else (10 if steps else 1) / key_dim

        self.memory = ProgramMemory(
            in_features, out_features, slots=slots, key_dim=key_dim, keys=keys, variant=variant
        )
        self.controller = (
            RecurrentController(in_features, heads=heads, key_dim=key_dim, steps=steps)
            if steps
            else LinearController(in_features, heads=heads, key_dim=key_dim)
        )
        self.gate = nn.Linear(in_features, 3 * slots) if steps and least_used else None
        self.R = nn.Parameter(torch.empty(in_features, out_features)) if residual else None
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        if self.R is not None:
            nn.init.xavier_uniform_(self.R)
            if self.bias is not None:
                nn.init.normal_(self.bias, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        return self._compose_and_apply(x)[0]

    @torch.no_grad()
    def trace(self, x: Tensor) -> ProgramTrace:
        """The attention, singular values and residual gate with which `forward` would treat x (..., d_in)."""
        return self._compose_and_apply(x)[1]

    def auxiliary_loss(self) -> Tensor:
        """a L_orth, scalar: depends on the parameters only, so add it once an update."""
        return self.orthogonality_weight * self.memory.orthogonality_loss()

    def _compose_and_apply(self, x: Tensor) -> tuple[Tensor, ProgramTrace]:
        leading, x = x.shape[:-1], x.reshape(-1, self.in_features)  # (B, d_in)
        signal = self.controller(x)  # (B, J, 3HK + 1)
        attention = self._attention(x, signal[..., :-1])  # (B, J, 3, H, P)
        w_U, w_V, w_S = attention.unbind(dim=2)  # (B, J, H, P) each
        w_U, w_V, w_S = (
            w_U.flatten(1, 2),
            w_V.flatten(1, 2),
            w_S.flatten(1, 2),
        )  # (B, n, P), n = (j - 1) H + h
        sigma, smallest = self._singular_values((w_S @ self.memory.M_S).squeeze(-1))  # (B, n), (B, 1)

        in_slots = x @ self.memory.M_U.T  # (B, P)
        in_components = (w_U @ in_slots.unsqueeze(-1)).squeeze(-1) * sigma  # (B, n)
        out_slots = (in_components.unsqueeze(1) @ w_V).squeeze(1)  # (B, P)
        y = out_slots @ self.memory.M_V  # (B, d_out)
        gate = None
        if self.R is not None:
            gate = smallest * signal[:, -1, -1:].sigmoid()  # (B, 1)
            y = y + gate * (x @ self.R)
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*leading, self.out_features), ProgramTrace(
            attention=attention.reshape(*leading, *attention.shape[1:]),
            singular_values=sigma.reshape(*leading, sigma.shape[-1]),
            residual_gate=None if gate is None else gate.reshape(leading),
        )

    def _attention(self, x: Tensor, queries: Tensor) -> Tensor:
        queries = queries.unflatten(-1, (3, self.heads, self.key_dim))  # (B, J, 3, H, K)
        scores = self.beta * similarity(queries, self.memory.keys(), self.variant)  # (B, J, 3, H, P)
        if self.gate is None:
            return scores.softmax(dim=-1)
        gates = self.gate(x).sigmoid().unflatten(-1, (3, -1))  # (B, 3, P)
        return interpolate_with_least_used(scores, gates, self.least_used)

    def _singular_values(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """Raw values (B, n) -> singular values (B, n) and the smallest of them (B, 1).

        sigma_n = sum over i >= n of softplus(zeta_i): positive, decreasing. The release sums over i <= n and, in the
        recurrent controller only, flips the result.
        """
        gaps = F.softplus(zeta)
        if self.variant == "paper":
            sigma = gaps.flip(-1).cumsum(-1).flip(-1)
        elif self.steps:
            sigma = gaps.cumsum(-1).flip(-1)
        else:
            sigma = gaps.cumsum(-1)
            return sigma, sigma[:, :1]
        return sigma, sigma[:, -1:]

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, slots={len(self.memory.M_S)}, "
            f"key_dim={self.key_dim}, heads={self.heads}, steps={self.steps}, least_used={self.least_used}, "
            f"residual={self.R is not None}, beta={self.beta:.3g}, variant={self.variant!r}"
        )
