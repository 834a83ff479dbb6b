"""The Neurocoder layer: an affine map whose weights are composed anew for every input.

    P_t = sum_n sigma_n u_n v_n^T + lambda R,    y = x P_t + b

u_n, v_n and sigma_n are read from the Program Memory by attention. Since they are linear in the memories, P_t is never built:

    y = ((((x M_U^T) . w^U) sigma) w^V) M_V + lambda (x R) + b

which needs memory B x n x P for attention and two dense products with the memories, not B x d_in x d_out. Where it can,
`neurocoder.kernels.fused_attention` does what lies between the dense products in one pass that stores no attention.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.checks import check_sizes, check_width
from neurocoder.kernels import fused_attention
from neurocoder.program_controller import LinearController, RecurrentController
from neurocoder.program_memory import (
    ProgramMemory,
    interpolate_with_least_used,
    scaled_keys,
    scores,
)
from neurocoder.settings import NeurocoderSettings


@dataclass(frozen=True)
class ProgramTrace:
    """How the programs of a batch were composed. Leading axes `...` are those of the input."""

    attention: Tensor  # (..., J, 3, H, P) over the slots of U, V, S
    singular_values: Tensor  # (..., n)
    residual_gate: Tensor | None  # (...), lambda; None without residual program


class _Program(NamedTuple):
    """What `_compose` finds for B inputs."""

    w_U: list[Tensor]  # (H, P, B) a step
    w_V: list[Tensor]
    w_S: list[Tensor]
    sigma: Tensor  # (n, B)
    residual_gate: Tensor | None  # (B,)


class NeurocoderLinear(nn.Module):
    """A drop-in for `nn.Linear` that composes its weights for each input from `slots` singular programs.

    Args:
        in_features, out_features: d_in and d_out of the map.
        controller_features: width of an input of its own for the controller: call `layer(x, z)`. None: the controller sees x.
        learn_beta: learn the inverse temperature, starting from beta.
        bias: add a learnt bias.
        settings: the fields of `neurocoder.settings.NeurocoderSettings`, by name.

    On a CPU in single precision the layer has first derivatives in reverse mode only: what does more of the work there is
    compiled (`neurocoder.kernels.fused_attention`). With NEUROCODER_FUSED=0 in the environment torch has all of them.

    Raises:
        ValueError: a setting out of range, naming it.
    """

    sums: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        controller_features: int | None = None,
        learn_beta: bool = False,
        bias: bool = True,
        **settings: Any,
    ):
        super().__init__()
        s = NeurocoderSettings(**settings)
        s.check()
        check_sizes(
            in_features=in_features, out_features=out_features, controller_features=controller_features
        )
        self.in_features, self.out_features = in_features, out_features
        self.heads, self.key_dim, self.steps, self.least_used = s.heads, s.key_dim, s.steps, s.least_used
        self.gate_from, self.variant, self.orthogonality_weight = (
            s.gate_from,
            s.variant,
            s.orthogonality_weight,
        )
        self.controller_features = controller_features

        width = controller_features or in_features  # d_c
        self.memory = ProgramMemory(
            in_features,
            out_features,
            slots=s.slots,
            key_dim=s.key_dim,
            keys=s.keys,
            gain=s.gain,
            variant=s.variant,
        )
        self.controller = (
            RecurrentController(width, heads=s.heads, key_dim=s.key_dim, steps=s.steps)
            if s.steps
            else LinearController(width, heads=s.heads, key_dim=s.key_dim)
        )
        gate_width = 3 * s.heads * s.key_dim + 1 if s.gate_from == "signal" else width
        self.gate = nn.Linear(gate_width, 3 * s.slots) if s.steps and s.least_used else None
        # The released code multiplies the norms by a product over K equal columns, which divides the cosine by K.
        beta = s.beta or (10 if s.steps else 1) / s.key_dim
        self.log_beta = nn.Parameter(torch.tensor(math.log(beta))) if learn_beta else None
        self._beta = beta
        # sigma_n = sum over i >= n of softplus(zeta_i): positive, decreasing. The release sums over i <= n and, in the recurrent
        # controller only, flips the result.
        rank = s.heads * max(s.steps, 1)  # n
        sums = torch.ones(rank, rank).triu()  # (n, n)
        if s.variant == "release":
            sums = sums.T.flip(0) if s.steps else sums.T
        self.register_buffer("sums", sums, persistent=False)
        self.smallest = 0 if s.variant == "release" and not s.steps else -1
        self.R = nn.Parameter(torch.empty(in_features, out_features)) if s.residual else None
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        if self.R is not None:
            nn.init.xavier_uniform_(self.R)
            if self.bias is not None:
                nn.init.normal_(self.bias, std=0.01)

    @property
    def beta(self) -> float | Tensor:
        """The inverse temperature; a scalar tensor where it is learnt."""
        return self._beta if self.log_beta is None else self.log_beta.exp()

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x (..., d_in) -> (..., d_out).

        Args:
            z: (..., controller_features), what the controller sees, for a layer that was made with `controller_features`;
                other layers' controllers see x.

        Raises:
            ValueError: x or z has another shape, or z is missing or not expected.
        """
        leading = x.shape[:-1]
        x, z = self._rows(x, z)
        signal = self.controller(z)  # (J, 3HK + 1, B)
        in_slots = self.memory.M_U @ x.T  # (P, B)
        if self.variant == "paper" and fused_attention.usable(signal, in_slots):
            out_slots, smallest = fused_attention.attend(
                signal,
                scaled_keys(self.memory.keys(), self.beta),
                None if self.gate is None else self._gates(z, signal),
                in_slots,
                self.memory.M_S,
                heads=self.heads,
                least_used=self.least_used,
            )
        else:
            program = self._compose_from(z, signal)
            out_slots, smallest = _apply(program, in_slots), program.sigma[self.smallest]
        y = out_slots.T @ self.memory.M_V  # (B, d_out)
        if self.R is not None:
            y = y + self._residual_gate(signal, smallest).unsqueeze(1) * (x @ self.R)
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*leading, self.out_features)

    @torch.no_grad()
    def trace(self, x: Tensor, z: Tensor | None = None) -> ProgramTrace:
        """The attention, singular values and residual gate with which `forward` would treat x (..., d_in). Raises as it does."""
        program, leading = self._compose(x, z), x.shape[:-1]
        of_steps = [
            torch.stack(of_step) for of_step in zip(program.w_U, program.w_V, program.w_S, strict=True)
        ]
        attention = torch.stack(of_steps).movedim(-1, 0)  # (B, J, 3, H, P)
        gate = program.residual_gate
        return ProgramTrace(
            attention=attention.reshape(*leading, *attention.shape[1:]),
            singular_values=program.sigma.T.reshape(*leading, len(program.sigma)),
            residual_gate=None if gate is None else gate.reshape(leading),
        )

    def auxiliary_loss(self) -> Tensor:
        """a L_orth, scalar: depends on the parameters only, so add it once an update."""
        return self.orthogonality_weight * self.memory.orthogonality_loss()

    def _rows(self, x: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        """Layer input (B, d_in) and what the controller sees, (B, d_c)."""
        if (z is None) != (self.controller_features is None):
            raise ValueError(
                "this layer's controller sees the layer's input: call layer(x), or make it with controller_features"
                if z is not None
                else f"this layer's controller has an input of its own: call layer(x, z), z (..., {self.controller_features})"
            )
        check_width("x", x, self.in_features)
        z = x if z is None else z
        check_width("z", z, self.controller_features or self.in_features)
        if z.shape[:-1] != x.shape[:-1]:
            raise ValueError(
                f"x has shape {tuple(x.shape)} and z {tuple(z.shape)}; all axes but the last must be the same"
            )
        z = z.reshape(-1, z.shape[-1])
        return x.reshape(-1, self.in_features), z

    def _compose(self, x: Tensor, z: Tensor | None) -> _Program:
        _, z = self._rows(x, z)
        return self._compose_from(z, self.controller(z))

    def _compose_from(self, z: Tensor, signal: Tensor) -> _Program:
        """The programs of controller inputs (B, d_c) and composition signals (J, 3HK + 1, B)."""
        w_U, w_V, w_S = map(list, zip(*(step.unbind() for step in self._attention(z, signal)), strict=True))
        zeta = torch.cat(
            [(self.memory.M_S.T.expand(self.heads, -1, -1) @ w).squeeze(1) for w in w_S]
        )  # (n, B)
        sigma = self.sums @ F.softplus(zeta)  # (n, B)
        gate = self._residual_gate(signal, sigma[self.smallest]) if self.R is not None else None
        return _Program(w_U, w_V, w_S, sigma, gate)

    def _residual_gate(self, signal: Tensor, smallest: Tensor) -> Tensor:
        """lambda (B), from the last integration signal and the smallest singular values (B)."""
        return smallest * signal[-1, -1].sigmoid()

    def _attention(self, z: Tensor, signal: Tensor) -> list[Tensor]:
        """Weights of the slots, (3, H, P, B) a step."""
        queries = signal[:, :-1].unflatten(1, (3, self.heads, self.key_dim))  # (J, 3, H, K, B)
        similarities = scores(queries, self.memory.keys(), self.beta, self.variant)
        if self.gate is None:
            return [step.softmax(dim=-2) for step in similarities]
        gates = self._gates(z, signal).expand(self.steps, -1, -1, -1)  # (J, 3, P, B)
        return interpolate_with_least_used(similarities, gates, self.least_used)

    def _gates(self, z: Tensor, signal: Tensor) -> Tensor:
        """Gates of U, V and S between attention and least-used slots, (J, 3, P, B), or (1, 3, P, B) for all steps."""
        assert self.gate is not None
        gates = _affine(self.gate, signal if self.gate_from == "signal" else z.T.unsqueeze(0)).sigmoid()
        return gates.unflatten(1, (3, -1))

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, slots={len(self.memory.M_S)}, "
            f"key_dim={self.key_dim}, heads={self.heads}, steps={self.steps}, least_used={self.least_used}, "
            f"residual={self.R is not None}, beta={float(self.beta):.3g}, variant={self.variant!r}"
        )


def _apply(program: _Program, in_slots: Tensor) -> Tensor:
    """x M_U^T (P, B) -> what multiplies M_V, (P, B)."""
    read = torch.cat([(w * in_slots).sum(1) for w in program.w_U])  # (n, B), x u_n
    components = (read * program.sigma).split(len(program.w_V[0]))  # (H, B) a step
    terms = [(w * c.unsqueeze(1)).sum(0) for w, c in zip(program.w_V, components, strict=True)]
    return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def _affine(layer: nn.Linear, z: Tensor) -> Tensor:
    """layer of z (J, d, B) with the inputs last: (J, d_out, B)."""
    return layer.weight @ z + layer.bias.unsqueeze(1)
