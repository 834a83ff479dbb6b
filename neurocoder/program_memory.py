"""The Program Memory: singular programs, their keys, and how a query reads them.

Shapes: B inputs, J attention steps, H heads, n = JH, P slots, K key width. U, V, S: the memories of left singular vectors,
right singular vectors and singular values. The inputs come last: the axes before them are short, and a processor works best
on long rows.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

EPSILON = 1e-6  # of the released cosine similarity

Variant = Literal["paper", "release"]


class ProgramMemory(nn.Module):
    """`P` singular programs: slot p holds a left vector, a right vector and a raw singular value (paper, Table 2).

    keys="generated": the keys of U and V are an affine map of the slot contents; keys="learned": they are parameters.
    The keys of S are always parameters (the released code; the paper's Table 2 names a generator for all three).
    variant="release" keeps parameters E_U, E_V beside generated keys, where only the orthogonality loss sees them.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        slots: int,
        key_dim: int,
        keys: str,
        gain: float,
        variant: Variant,
    ):
        super().__init__()
        self.generated_keys = keys == "generated"
        key_columns = key_dim if keys == "learned" or variant == "release" else 0
        self.M_U, self.E_U = _slots(slots, in_features, key_columns, gain)  # (P, d_in), (P, K) or None
        self.M_V, self.E_V = _slots(slots, out_features, key_columns, gain)  # (P, d_out), (P, K) or None
        self.M_S, self.E_S = _slots(slots, 1, key_dim)  # (P, 1), (P, K)
        if self.generated_keys:
            self.key_generator_U = nn.Linear(in_features, key_dim)
            self.key_generator_V = nn.Linear(out_features, key_dim)
        self._kept: Tensor | None = None  # see `keys_kept`

    def keys(self) -> Tensor:
        """Program keys of U, V and S, (3, P, K). They depend on parameters only."""
        return self._keys() if self._kept is None else self._kept

    def _keys(self) -> Tensor:
        assert self.E_S is not None
        if self.generated_keys:
            return torch.stack((self.key_generator_U(self.M_U), self.key_generator_V(self.M_V), self.E_S))
        assert self.E_U is not None and self.E_V is not None
        return torch.stack((self.E_U, self.E_V, self.E_S))

    def orthogonality_loss(self) -> Tensor:
        """|U U^T - I| + |V V^T - I| (Frobenius norms, not squared), scalar.

        A row of U is a slot's content and, where the slot has key columns, those too, as in the released code; so with
        generated keys variant="paper" regularises the contents alone.
        """
        return _distance_from_orthonormal_rows(_row(self.M_U, self.E_U)) + _distance_from_orthonormal_rows(
            _row(self.M_V, self.E_V)
        )


@contextmanager
def keys_kept(network: nn.Module) -> Iterator[None]:
    """Within it each Program Memory of a network makes its keys once: for loops that call a layer step by step."""
    memories = [module for module in network.modules() if isinstance(module, ProgramMemory)]
    for memory in memories:
        memory._kept = memory._keys()
    try:
        yield
    finally:
        for memory in memories:
            memory._kept = None


def _slots(
    slots: int, width: int, key_columns: int, gain: float = 1.0
) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Contents (P, width) and keys (P, key_columns), drawn as one Xavier-uniform (P, key_columns + width) matrix.

    `gain` is of the contents.
    """
    bound = math.sqrt(6 / (slots + key_columns + width))
    contents = nn.Parameter(gain * torch.empty(slots, width).uniform_(-bound, bound))
    keys = nn.Parameter(torch.empty(slots, key_columns).uniform_(-bound, bound)) if key_columns else None
    return contents, keys


def _row(contents: Tensor, keys: Tensor | None) -> Tensor:
    return contents if keys is None else torch.cat((keys, contents), dim=1)


def _distance_from_orthonormal_rows(rows: Tensor) -> Tensor:
    """|G G^T - I|_F of G (P, d), scalar."""
    slots, width = rows.shape
    small = rows if slots <= width else rows.T
    identity = torch.eye(len(small), dtype=rows.dtype, device=rows.device)
    distance = torch.linalg.vector_norm(
        torch.addmm(identity, small, small.T, beta=-1)
    )  # its gradient at 0 is 0
    if (
        slots > width
    ):  # |G G^T - I|^2 = |G^T G - I|^2 + P - d: the same non-zero spectrum, and P - d ones more
        distance = torch.hypot(distance, distance.new_full((), math.sqrt(slots - width)))
    return distance


def scores(queries: Tensor, keys: Tensor, beta: float | Tensor, variant: Variant) -> list[Tensor]:
    """beta times the cosine of queries (J, 3, H, K, B) and keys (3, P, K): (3, H, P, B) a step.

    Keys (3, P, K, B) and beta (B,) are those of each input. One tensor a step: over large batches, memory that is newly mapped
    for one long tensor costs more than computing it.
    """
    if variant == "paper":
        return _products(_unit_length(queries, dim=-2), scaled_keys(keys, beta))
    # The release adds an epsilon to each norm and one to their product, K times smaller than the product it stands beside.
    key_norms, query_norms = _length(keys, dim=2) + EPSILON, _length(queries, dim=-2) + EPSILON
    if keys.ndim == 4:
        key_norms = key_norms.squeeze(2)  # (3, P, B)
    return [
        product / (key_norms.unsqueeze(1) * norms + EPSILON / keys.shape[2])
        for product, norms in zip(_products(queries, beta * keys), query_norms, strict=True)
    ]


def scaled_keys(keys: Tensor, beta: float | Tensor) -> Tensor:
    """Keys (3, P, K[, B]) at a length of beta: their products with unit queries are the scores of variant "paper"."""
    return beta * _unit_length(keys, dim=2)


def _products(queries: Tensor, keys: Tensor) -> list[Tensor]:
    """Scalar products of queries (J, 3, H, K, B) and keys (3, P, K[, B]): (3, H, P, B) a step."""
    keys = keys.unsqueeze(1)
    if keys.ndim == 5:
        return [(keys * step.unsqueeze(2)).sum(3) for step in queries]  # (3, H, P, K, B)
    return [keys @ step for step in queries]


def _unit_length(vectors: Tensor, dim: int) -> Tensor:
    return vectors * (vectors.square().sum(dim, keepdim=True) + EPSILON**2).rsqrt()  # finite gradient at zero


def _length(vectors: Tensor, dim: int) -> Tensor:
    """As `linalg.vector_norm`, which on a CPU is an order slower along an inner axis."""
    return vectors.square().sum(dim, keepdim=True).clamp_min(1e-30).sqrt()  # the root of zero has no gradient


def interpolate_with_least_used(scores: list[Tensor], gates: Tensor, least_used: int) -> list[Tensor]:
    """Attention to the memories that is drawn towards slots not used yet (the paper's usage-based attention).

    Args:
        scores: similarity times inverse temperature, (3, H, P, B) a step.
        gates: how much of the least-used slots is mixed in, in [0, 1], (J, 3, P, B): one gate a slot, for all heads.
        least_used: how many least-used slots are considered (the paper's l_I), 1 <= least_used < P.

    Returns:
        Attention, (3, H, P, B) a step, in [0, 1], not normalised over the slots (as released).
    """
    candidates = torch.zeros_like(gates[0])  # (3, P, B)
    candidates[:, :least_used] = 1  # before the first step no slot is used: the first ones are taken
    usage, steps = None, []
    for step, gate in zip(scores, gates, strict=True):  # (3, H, P, B), (3, P, B)
        # Under autocast similarities are products, so narrower than the gates; lerp takes one type.
        peaked = _from_largest(step.to(gate.dtype)).exp()  # softmax divided by its largest entry
        attention = torch.lerp(peaked, candidates.unsqueeze(1), gate.unsqueeze(1))
        steps.append(attention)
        for head in attention.unbind(1):  # usage is the largest so far, (3, P, B)
            usage = head if usage is None else usage + (head - usage).relu()
        assert usage is not None
        # Compared as usage: in single precision 1 - usage is 1 for all slots that were hardly read.
        used = usage.detach()
        threshold = used.topk(least_used + 1, dim=1, largest=False).values[:, -1:]  # (3, 1, B)
        candidates = (1 - usage) * (threshold - used).sign().relu()
    return steps


def _from_largest(scores: Tensor) -> Tensor:
    """scores (3, H, P, B) less the largest of them over the slots.

    Written with arithmetic, since on a CPU the gradients of `amax` and `maximum` (above), which compare, cost several times more.
    """
    below = scores - scores.detach().amax(dim=-2, keepdim=True)
    largest = 1 + below.detach().sign()  # (3, H, P, B), 1 at the largest, where `below` is 0
    return below - (below * largest).sum(-2, keepdim=True) / largest.sum(-2, keepdim=True)
