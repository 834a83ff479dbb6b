"""The Program Memory: singular programs, their keys, and how a query reads them.

Shapes: B inputs, J attention steps, H heads, n = JH, P slots, K key width. U, V and S are the memories of left singular
vectors, right singular vectors and singular values. The inputs come last: the axes before them are short, and a
processor works best on long rows.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from neurocoder.settings import NeurocoderSettings

EPSILON = 1e-6
"""The constant that the released cosine similarity adds to norms."""

Variant = Literal["paper", "release"]


class ProgramMemory(nn.Module):
    """`P` singular programs: slot p holds a left vector, a right vector and a raw singular value (paper, Table 2).

    keys="generated": the keys of U and V are an affine map of the slot contents.
    keys="learned": the keys are parameters.
    The keys of S are always parameters, as in the released code. The paper's Table 2 names a generator for all three.
    variant="release" has parameters E_U and E_V in addition to generated keys; only the orthogonality loss uses them.
    """

    def __init__(self, in_features: int, out_features: int, settings: NeurocoderSettings):
        super().__init__()
        slots, key_dim, gain = settings.slots, settings.key_dim, settings.gain
        self.generated_keys = settings.keys == "generated"
        key_columns = 0 if self.generated_keys and settings.variant == "paper" else key_dim
        self.M_U, self.E_U = _slots(slots, in_features, key_columns, gain)  # (P, d_in), (P, K) or None
        self.M_V, self.E_V = _slots(slots, out_features, key_columns, gain)  # (P, d_out), (P, K) or None
        self.M_S, self.E_S = _slots(slots, 1, key_dim)  # (P, 1), (P, K)
        if self.generated_keys:
            self.key_generator_U = nn.Linear(in_features, key_dim)
            self.key_generator_V = nn.Linear(out_features, key_dim)
        self._cached_keys: Tensor | None = None

    def keys(self) -> Tensor:
        """Program keys of U, V and S, (3, P, K). They depend on parameters only."""
        return self._compute_keys() if self._cached_keys is None else self._cached_keys

    def _compute_keys(self) -> Tensor:
        assert self.E_S is not None
        if self.generated_keys:
            return torch.stack((self.key_generator_U(self.M_U), self.key_generator_V(self.M_V), self.E_S))
        assert self.E_U is not None and self.E_V is not None
        return torch.stack((self.E_U, self.E_V, self.E_S))

    def orthogonality_loss(self) -> Tensor:
        """|U U^T - I| + |V V^T - I| (Frobenius norms, not squared), scalar.

        A row of U is the content of a slot, followed by its key columns where there are any, as in the released code.
        So with generated keys variant="paper" regularises the contents alone.
        """
        left, right = _rows(self.M_U, self.E_U), _rows(self.M_V, self.E_V)
        return _distance_from_orthonormal_rows(left) + _distance_from_orthonormal_rows(right)


@contextmanager
def cached_keys(network: nn.Module) -> Iterator[None]:
    """Makes each Program Memory of a network compute its keys once, for loops that call a layer step by step."""
    memories = [module for module in network.modules() if isinstance(module, ProgramMemory)]
    for memory in memories:
        memory._cached_keys = memory._compute_keys()
    try:
        yield
    finally:
        for memory in memories:
            memory._cached_keys = None


def _slots(
    slots: int, width: int, key_columns: int, gain: float = 1.0
) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Contents (P, width) and keys (P, key_columns), drawn as one Xavier-uniform matrix (P, key_columns + width).

    The contents are multiplied by `gain`.
    """
    bound = math.sqrt(6 / (slots + key_columns + width))
    contents = nn.Parameter(gain * torch.empty(slots, width).uniform_(-bound, bound))
    keys = nn.Parameter(torch.empty(slots, key_columns).uniform_(-bound, bound)) if key_columns else None
    return contents, keys


def _rows(contents: Tensor, keys: Tensor | None) -> Tensor:
    return contents if keys is None else torch.cat((keys, contents), dim=1)


def _distance_from_orthonormal_rows(rows: Tensor) -> Tensor:
    """|G G^T - I|_F of a matrix G (P, d), scalar."""
    slots, width = rows.shape
    small = rows if slots <= width else rows.T
    identity = torch.eye(len(small), dtype=rows.dtype, device=rows.device)
    # The gradient of vector_norm at 0 is 0.
    distance = torch.linalg.vector_norm(torch.addmm(identity, small, small.T, beta=-1))
    if slots > width:
        # Both products have the same non-zero spectrum, and G G^T has P - d more zeros. So
        # |G G^T - I|^2 = |G^T G - I|^2 + P - d.
        distance = torch.hypot(distance, distance.new_full((), math.sqrt(slots - width)))
    return distance


def scores(queries: Tensor, keys: Tensor, beta: float | Tensor, variant: Variant) -> list[Tensor]:
    """beta times the cosine of queries (J, 3, H, K, B) and keys (3, P, K): (3, H, P, B) a step.

    Keys (3, P, K, B) and beta (B,) differ between inputs. There is one tensor for each step: over large batches, newly
    mapped memory for one long tensor costs more than the computation.
    """
    if variant == "paper":
        return _products(_unit_length(queries, dim=-2), scaled_keys(keys, beta))
    # The release adds EPSILON to each norm, and EPSILON / K to the product of the norms.
    key_norms, query_norms = _length(keys, dim=2) + EPSILON, _length(queries, dim=-2) + EPSILON
    if keys.ndim == 4:
        key_norms = key_norms.squeeze(2)  # (3, P, B)
    return [
        product / (key_norms.unsqueeze(1) * norms + EPSILON / keys.shape[2])
        for product, norms in zip(_products(queries, beta * keys), query_norms, strict=True)
    ]


def scaled_keys(keys: Tensor, beta: float | Tensor) -> Tensor:
    """Keys (3, P, K[, B]) with length beta: their products with unit queries are the scores of variant "paper"."""
    return beta * _unit_length(keys, dim=2)


def _products(queries: Tensor, keys: Tensor) -> list[Tensor]:
    """Scalar products of queries (J, 3, H, K, B) and keys (3, P, K[, B]): (3, H, P, B) a step."""
    keys = keys.unsqueeze(1)
    if keys.ndim == 5:
        return [(keys * step.unsqueeze(2)).sum(3) for step in queries]  # (3, H, P, K, B)
    return [keys @ step for step in queries]


def _unit_length(vectors: Tensor, dim: int) -> Tensor:
    # EPSILON makes the gradient at zero finite.
    return vectors * (vectors.square().sum(dim, keepdim=True) + EPSILON**2).rsqrt()


def _length(vectors: Tensor, dim: int) -> Tensor:
    """Norms. On a CPU `linalg.vector_norm` is an order slower along an inner axis."""
    # The root of zero has no gradient.
    return vectors.square().sum(dim, keepdim=True).clamp_min(1e-30).sqrt()


def interpolate_with_least_used(scores: list[Tensor], gates: Tensor, least_used: int) -> list[Tensor]:
    """Attention to the memories that is drawn towards slots not used yet (the paper's usage-based attention).

    Args:
        scores: similarity times inverse temperature, (3, H, P, B) a step.
        gates: the share of the least-used slots, in [0, 1], (J, 3, P, B): one gate for each slot and all heads.
        least_used: the number of least-used slots considered (the paper's l_I), 1 <= least_used < P.

    Returns:
        Attention, (3, H, P, B) a step, in [0, 1], not normalised over the slots (as released).
    """
    candidates = torch.zeros_like(gates[0])  # (3, P, B)
    # Before the first step no slot is used, and the first slots are the candidates.
    candidates[:, :least_used] = 1
    usage, steps = None, []
    for step, gate in zip(scores, gates, strict=True):  # (3, H, P, B), (3, P, B)
        # Under autocast similarities are products, so they are narrower than the gates. lerp takes one type.
        scores_below_largest = _subtract_largest(step.to(gate.dtype))
        # The softmax divided by its largest entry.
        peaked = scores_below_largest.exp()
        attention = torch.lerp(peaked, candidates.unsqueeze(1), gate.unsqueeze(1))
        steps.append(attention)
        # The usage of a slot is its largest attention so far, (3, P, B).
        for head in attention.unbind(1):
            usage = head if usage is None else usage + (head - usage).relu()
        assert usage is not None
        # Usages are compared, not 1 - usage: in single precision 1 - usage is 1 for all slots that were hardly read.
        used = usage.detach()
        threshold = used.topk(least_used + 1, dim=1, largest=False).values[:, -1:]  # (3, 1, B)
        candidates = (1 - usage) * (threshold - used).sign().relu()
    return steps


def _subtract_largest(scores: Tensor) -> Tensor:
    """scores (3, H, P, B) minus the largest of them over the slots.

    This is arithmetic, and so is the usage above: on a CPU the gradients of `amax` and `maximum` cost several
    times more.
    """
    below = scores - scores.detach().amax(dim=-2, keepdim=True)
    # 1 at the largest score, where `below` is 0, and 0 elsewhere, (3, H, P, B).
    is_largest = 1 + below.detach().sign()
    return below - (below * is_largest).sum(-2, keepdim=True) / is_largest.sum(-2, keepdim=True)
