"""The Program Memory: singular programs, their keys, and how a query reads them.

Shapes: B inputs, J attention steps, H heads, n = JH, P slots, K key width. U, V, S: the memories of left singular vectors,
right singular vectors and singular values. The inputs come last: the axes before them are short, and a processor works best
on long rows.
"""

import math
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
        self, in_features: int, out_features: int, *, slots: int, key_dim: int, keys: str, variant: Variant
    ):
        super().__init__()
        self.generated_keys = keys == "generated"
        key_columns = key_dim if keys == "learned" or variant == "release" else 0
        self.M_U, self.E_U = _slots(slots, in_features, key_columns)  # (P, d_in), (P, K) or None
        self.M_V, self.E_V = _slots(slots, out_features, key_columns)  # (P, d_out), (P, K) or None
        self.M_S, self.E_S = _slots(slots, 1, key_dim)  # (P, 1), (P, K)
        if self.generated_keys:
            self.key_generator_U = nn.Linear(in_features, key_dim)
            self.key_generator_V = nn.Linear(out_features, key_dim)

    def keys(self) -> tuple[Tensor, Tensor, Tensor]:
        """Program keys of U, V and S, (P, K) each. They depend on parameters only."""
        assert self.E_S is not None
        if self.generated_keys:
            return self.key_generator_U(self.M_U), self.key_generator_V(self.M_V), self.E_S
        assert self.E_U is not None and self.E_V is not None
        return self.E_U, self.E_V, self.E_S

    def orthogonality_loss(self) -> Tensor:
        """|U U^T - I| + |V V^T - I| (Frobenius norms, not squared), scalar.

        A row of U is a slot's content and, where the slot has key columns, those too, as in the released code; so with
        generated keys variant="paper" regularises the contents alone.
        """
        return _distance_from_orthonormal_rows(_row(self.M_U, self.E_U)) + _distance_from_orthonormal_rows(
            _row(self.M_V, self.E_V)
        )


def _slots(slots: int, width: int, key_columns: int) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Contents (P, width) and keys (P, key_columns), drawn as one Xavier-uniform (P, key_columns + width) matrix."""
    bound = math.sqrt(6 / (slots + key_columns + width))
    contents = nn.Parameter(torch.empty(slots, width).uniform_(-bound, bound))
    keys = nn.Parameter(torch.empty(slots, key_columns).uniform_(-bound, bound)) if key_columns else None
    return contents, keys


def _row(contents: Tensor, keys: Tensor | None) -> Tensor:
    return contents if keys is None else torch.cat((keys, contents), dim=1)


def _distance_from_orthonormal_rows(rows: Tensor) -> Tensor:
    """|G G^T - I|_F of G (P, d), through the smaller of the two Gram matrices."""
    slots, width = rows.shape
    if (
        width < slots
    ):  # |G G^T - I|^2 = |G^T G - I|^2 + P - d: the same non-zero spectrum, and P - d ones more
        gram, excess = rows.T @ rows, slots - width
    else:
        gram, excess = rows @ rows.T, 0
    squared = (gram - torch.eye(len(gram), dtype=rows.dtype, device=rows.device)).square().sum() + excess
    return (squared + 1e-12).sqrt()  # the root of zero has no gradient


def scores(queries: Tensor, keys: Tensor, beta: float | Tensor, variant: Variant) -> Tensor:
    """beta times the cosine of queries (n, K, B) and the keys of one memory (P, K): (n, P, B)."""
    if variant == "paper":
        return _products(beta * _unit_length(keys, dim=-1), _unit_length(queries, dim=-2))
    # The release adds an epsilon to each norm and one to their product, K times smaller than the product it stands beside.
    query_norm, key_norm = _length(queries, dim=-2) + EPSILON, _length(keys, dim=-1) + EPSILON
    return _products(beta * keys, queries) / (key_norm * query_norm + EPSILON / keys.shape[-1])


def _products(keys: Tensor, queries: Tensor) -> Tensor:
    """keys @ queries, batched: of (P, K) @ (n, K, B) torch makes one product, for which it copies the queries."""
    return torch.bmm(keys.expand(len(queries), -1, -1), queries)


def _unit_length(vectors: Tensor, dim: int) -> Tensor:
    return vectors * (vectors.square().sum(dim, keepdim=True) + EPSILON**2).rsqrt()  # finite gradient at zero


def _length(vectors: Tensor, dim: int) -> Tensor:
    """As `linalg.vector_norm`, which on a CPU is an order slower along an inner axis."""
    return vectors.square().sum(dim, keepdim=True).clamp_min(1e-30).sqrt()  # the root of zero has no gradient


def interpolate_with_least_used(scores: Tensor, gates: Tensor, least_used: int) -> Tensor:
    """Attention to one memory that is drawn towards slots not used yet (the paper's usage-based attention).

    Args:
        scores: similarity times inverse temperature, (J, H, P, B).
        gates: how much of the least-used slots is mixed in, in [0, 1], (J, P, B): one gate a slot, for all heads.
        least_used: how many least-used slots are considered (the paper's l_I), 1 <= least_used < P.

    Returns:
        Attention (J, H, P, B), in [0, 1], not normalised over the slots (as released).
    """
    peaked = (scores - scores.amax(dim=-2, keepdim=True)).exp()  # softmax divided by its largest entry
    candidates = torch.zeros_like(gates[0])  # (P, B)
    candidates[:least_used] = 1  # before the first step no slot is used: the first ones are taken
    usage, steps = None, []
    for step, gate in zip(peaked, gates, strict=True):  # (H, P, B), (P, B)
        attention = torch.lerp(step, candidates, gate)
        steps.append(attention)
        most = attention.amax(dim=0)  # over heads, (P, B)
        usage = most if usage is None else torch.maximum(usage, most)
        # Compared as usage: in single precision 1 - usage is 1 for all slots that were hardly read.
        threshold = usage.topk(least_used + 1, dim=0, largest=False).values[-1]  # (B,)
        candidates = (1 - usage) * (usage < threshold)
    return torch.stack(steps)
