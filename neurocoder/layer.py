"""The Neurocoder layer: an affine map whose weights are composed for every input.

    P_t = sum_n sigma_n u_n v_n^T + lambda R,    y = x P_t + b

Attention reads u_n, v_n and sigma_n from the Program Memory. They are linear in the memories, so P_t is never built:

    y = ((((x M_U^T) . w^U) sigma) w^V) M_V + lambda (x R) + b

This needs memory B x n x P for attention and two dense products with the memories, not B x d_in x d_out.
`neurocoder.kernels.fused_attention` computes what lies between the dense products in one pass that stores no attention.

Shapes: B inputs, J attention steps, H heads, n = H max(J, 1) components, P slots, K key width, d_c controller input.
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
    Variant,
    interpolate_with_least_used,
    scaled_keys,
    scores,
)
from neurocoder.settings import NeurocoderSettings


@dataclass(frozen=True)
class ProgramTrace:
    """How the programs of a batch were composed. Leading axes `...` are those of the input."""

    attention: Tensor
    """Weights of the slots of U, V and S, (..., J, 3, H, P)."""
    singular_values: Tensor
    """(..., n)."""
    residual_gate: Tensor | None
    """lambda (...); None without residual program."""


class _StepWeights(NamedTuple):
    """Weights of the slots of U, V and S in one attention step, (H, P, B) each."""

    U: Tensor
    V: Tensor
    S: Tensor


class _Program(NamedTuple):
    """The parts of the composed programs of B inputs that the memories do not hold."""

    steps: list[_StepWeights]
    sigma: Tensor
    """Singular values (n, B)."""


class NeurocoderLinear(nn.Module):
    """A drop-in for `nn.Linear` that composes its weights for each input from `slots` singular programs.

    Args:
        in_features, out_features: d_in and d_out of the map.
        controller_features: width of a second input z for the controller: call `layer(x, z)`. None: the
            controller sees x.
        learn_beta: learn the inverse temperature, starting from beta.
        bias: add a learnt bias.
        settings: fields of `neurocoder.settings.NeurocoderSettings` by name. Its defaults hold for those left out.

    On a CPU in single precision compiled code computes the attention (`neurocoder.kernels.fused_attention`). It has
    first derivatives in reverse mode only. With NEUROCODER_FUSED=0 in the environment torch has all derivatives.

    Raises:
        TypeError: a setting is unknown.
        ValueError: a setting is out of range. The message names it.
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
        self.controller_features = controller_features
        self.heads, self.key_dim, self.steps, self.least_used = s.heads, s.key_dim, s.steps, s.least_used
        self.gate_from, self.variant = s.gate_from, s.variant
        self.orthogonality_weight = s.orthogonality_weight

        self.memory = ProgramMemory(in_features, out_features, s)
        controller_width = controller_features or in_features  # d_c
        self.controller = (
            RecurrentController(controller_width, heads=s.heads, key_dim=s.key_dim, steps=s.steps)
            if s.steps
            else LinearController(controller_width, heads=s.heads, key_dim=s.key_dim)
        )
        gate_width = 3 * s.heads * s.key_dim + 1 if s.gate_from == "signal" else controller_width
        self.gate = nn.Linear(gate_width, 3 * s.slots) if s.steps and s.least_used else None
        self._beta = _released_beta(s.key_dim, s.steps) if s.beta is None else s.beta
        self.log_beta = nn.Parameter(torch.tensor(math.log(self._beta))) if learn_beta else None
        sums, self.smallest_component = _sums_of_gaps(s.heads, s.steps, s.variant)
        self.register_buffer("sums", sums, persistent=False)
        self.R = nn.Parameter(torch.empty(in_features, out_features)) if s.residual else None
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        if self.R is not None:
            nn.init.xavier_uniform_(self.R)
            if self.bias is not None:
                nn.init.normal_(self.bias, std=0.01)

    @property
    def beta(self) -> float | Tensor:
        """The inverse temperature; a scalar tensor where the layer learns it."""
        return self._beta if self.log_beta is None else self.log_beta.exp()

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x (..., d_in) -> (..., d_out).

        Args:
            z: (..., controller_features), the controller's input, for a layer made with `controller_features`. The
                controllers of other layers see x.

        Raises:
            ValueError: x or z has another shape, or z is missing or not expected.
        """
        leading = x.shape[:-1]
        x, z = self.rows(x, z)
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
            program = self._compose(z, signal)
            out_slots, smallest = _apply(program, in_slots), program.sigma[self.smallest_component]
        y = out_slots.T @ self.memory.M_V  # (B, d_out)
        if self.R is not None:
            y = y + self.residual_gate(signal, smallest).unsqueeze(1) * (x @ self.R)
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*leading, self.out_features)

    @torch.no_grad()
    def trace(self, x: Tensor, z: Tensor | None = None) -> ProgramTrace:
        """Returns the attention, singular values and residual gates that `forward` uses for x (..., d_in).

        Raises the same errors as `forward`.
        """
        leading = x.shape[:-1]
        _, z = self.rows(x, z)
        signal = self.controller(z)
        program = self._compose(z, signal)
        attention = torch.stack([torch.stack(step) for step in program.steps])  # (J, 3, H, P, B)
        attention = attention.movedim(-1, 0)  # (B, J, 3, H, P)
        gate = None
        if self.R is not None:
            gate = self.residual_gate(signal, program.sigma[self.smallest_component]).reshape(leading)
        return ProgramTrace(
            attention=attention.reshape(*leading, *attention.shape[1:]),
            singular_values=program.sigma.T.reshape(*leading, len(program.sigma)),
            residual_gate=gate,
        )

    def auxiliary_loss(self) -> Tensor:
        """a L_orth, scalar. The loss depends on the parameters only, so add it once an update."""
        return self.orthogonality_weight * self.memory.orthogonality_loss()

    def rows(self, x: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        """Flattens leading axes: x -> (B, d_in), controller input -> (B, d_c). Raises ValueError as `forward` does."""
        if (z is None) != (self.controller_features is None):
            raise ValueError(
                "the controller of this layer sees x: call layer(x), or make the layer with controller_features"
                if z is not None
                else "the controller of this layer has a separate input: "
                f"call layer(x, z), z (..., {self.controller_features})"
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

    def singular_values(self, zeta: Tensor) -> Tensor:
        """Raw singular values (n, B) -> sigma (n, B), positive and ordered."""
        return self.sums @ F.softplus(zeta)

    def residual_gate(self, signal: Tensor, smallest: Tensor) -> Tensor:
        """lambda (B,), from composition signals (J, 3HK + 1, B) and the smallest singular values (B,)."""
        return smallest * signal[-1, -1].sigmoid()

    def _compose(self, z: Tensor, signal: Tensor) -> _Program:
        """Composes programs from controller inputs (B, d_c) and composition signals (J, 3HK + 1, B)."""
        steps = [_StepWeights(*step.unbind()) for step in self._attention(z, signal)]
        zeta = torch.cat([self._read_raw_values(step.S) for step in steps])  # (n, B)
        return _Program(steps, self.singular_values(zeta))

    def _read_raw_values(self, w_S: Tensor) -> Tensor:
        """Weights of the slots (H, P, B) -> raw singular values (H, B)."""
        return (self.memory.M_S.T.expand(self.heads, -1, -1) @ w_S).squeeze(1)

    def _attention(self, z: Tensor, signal: Tensor) -> list[Tensor]:
        """Weights of the slots, (3, H, P, B) a step."""
        queries = signal[:, :-1].unflatten(1, (3, self.heads, self.key_dim))  # (J, 3, H, K, B)
        similarities = scores(queries, self.memory.keys(), self.beta, self.variant)
        if self.gate is None:
            return [step.softmax(dim=-2) for step in similarities]
        gates = self._gates(z, signal).expand(self.steps, -1, -1, -1)  # (J, 3, P, B)
        return interpolate_with_least_used(similarities, gates, self.least_used)

    def _gates(self, z: Tensor, signal: Tensor) -> Tensor:
        """Gates between attention and least-used slots of U, V and S, (J, 3, P, B), or (1, 3, P, B) for all steps."""
        assert self.gate is not None
        gates = _affine(self.gate, signal if self.gate_from == "signal" else z.T.unsqueeze(0)).sigmoid()
        return gates.unflatten(1, (3, -1))

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, slots={len(self.memory.M_S)}, "
            f"key_dim={self.key_dim}, heads={self.heads}, steps={self.steps}, least_used={self.least_used}, "
            f"residual={self.R is not None}, beta={float(self.beta):.3g}, variant={self.variant!r}"
        )


def _released_beta(key_dim: int, steps: int) -> float:
    """The inverse temperature of the released code: 10 / K with the recurrent controller, 1 / K with the linear one.

    The released code multiplies the norms by a product over K equal columns, which divides the cosine by K.
    """
    return (10 if steps else 1) / key_dim


def _sums_of_gaps(heads: int, steps: int, variant: Variant) -> tuple[Tensor, int]:
    """Returns the matrix (n, n) that makes singular values of their gaps, softplus(zeta), and the smallest one's index.

    Row k has a 1 for each gap i in the sum sigma_k.
    """
    n = heads * max(steps, 1)
    k, i = torch.arange(n).unsqueeze(1), torch.arange(n)
    if variant == "paper":
        # sigma_k = sum over i >= k: decreasing.
        sums, smallest = i >= k, n - 1
    elif steps == 0:
        # sigma_k = sum over i <= k: increasing.
        sums, smallest = i <= k, 0
    else:
        # The released recurrent controller reverses the order of these sums: decreasing.
        sums, smallest = i <= n - 1 - k, n - 1
    return sums.to(torch.get_default_dtype()), smallest


def _apply(program: _Program, in_slots: Tensor) -> Tensor:
    """x M_U^T (P, B) -> what multiplies M_V, (P, B)."""
    read = torch.cat([(step.U * in_slots).sum(1) for step in program.steps])  # (n, B), x u_n
    heads = len(program.steps[0].U)
    components = (read * program.sigma).split(heads)  # (H, B) a step
    terms = [
        (step.V * component.unsqueeze(1)).sum(0)
        for step, component in zip(program.steps, components, strict=True)
    ]
    return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def _affine(layer: nn.Linear, z: Tensor) -> Tensor:
    """Applies a linear layer to z (J, d, B) with the inputs last: (J, d_out, B)."""
    return layer.weight @ z + layer.bias.unsqueeze(1)
