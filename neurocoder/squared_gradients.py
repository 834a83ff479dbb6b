"""Sums over samples of the squared gradients of a layer's parameters, without writing out the gradient of each sample.

Sample b contributes the squared gradients of delta_b . layer(x_b), where delta_b is the gradient of a loss with
respect to the layer's output. The gradient of W in x W is the outer product of x_b and delta_b, so the sum over
samples is (x^2)^T delta^2. `RULES` holds such a form for each kind of layer that has one; `one_by_one` works
for any layer.

Shapes: B samples, P slots or programs, H heads, K key width.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neurocoder.alternatives.low_rank import LowRankLinear
from neurocoder.alternatives.stored_program import StoredProgramLinear
from neurocoder.layer import NeurocoderLinear
from neurocoder.program_memory import ProgramMemory, scores

CHUNK_SIZE = 16_000_000
"""The count of numbers that `one_by_one` holds at a time: 64 MB in single precision."""

Squares = dict[str, Tensor]
"""For each parameter of a module, by name, the sum over samples of its squared gradient, shaped like the parameter."""


@torch.no_grad()
def squared_gradients(layer: nn.Module, delta: Tensor, *inputs: Tensor) -> Squares:
    """Squared gradients of delta_b . layer(*inputs_b), summed over b; delta (B, ..., d_out), inputs (B, ..., d)."""
    # With more axes a sample calls the layer many times, which only `one_by_one` can sum.
    by_rows = all(tensor.ndim == 2 for tensor in (delta, *inputs))
    rule = RULES.get(type(layer), one_by_one) if by_rows else one_by_one
    return rule(layer, delta, *inputs)


def one_by_one(layer: nn.Module, delta: Tensor, *inputs: Tensor) -> Squares:
    """`squared_gradients` of any layer: writes out the gradients of each sample, for a chunk of samples at a time."""
    squares = _zeros(layer)
    rows = max(1, CHUNK_SIZE // sum(total.numel() for total in squares.values()))
    for chunk in zip(*(tensor.split(rows) for tensor in (delta, *inputs)), strict=True):
        for name, gradient in _gradients(layer, squares, *chunk).items():
            squares[name] += gradient.square().sum(dim=0)
    return squares


def _zeros(layer: nn.Module) -> Squares:
    return {name: torch.zeros_like(parameter) for name, parameter in layer.named_parameters()}


def _gradients(layer: nn.Module, names: Collection[str], delta: Tensor, *inputs: Tensor) -> dict[str, Tensor]:
    """Returns the gradients of the parameters named, each (B, shape of the parameter)."""

    def response(parameters: dict[str, Tensor], delta: Tensor, *inputs: Tensor) -> Tensor:
        sample = tuple(tensor.unsqueeze(0) for tensor in inputs)
        return (torch.func.functional_call(layer, parameters, sample).squeeze(0) * delta).sum()

    parameters = {name: p.detach() for name, p in layer.named_parameters() if name in names}
    over_samples = (None, *[0] * (1 + len(inputs)))
    return torch.func.vmap(torch.func.grad(response), in_dims=over_samples)(parameters, delta, *inputs)


def _linear(layer: nn.Linear, delta: Tensor, x: Tensor) -> Squares:
    squares = {"weight": delta.square().T @ x.square()}
    return squares if layer.bias is None else squares | {"bias": delta.square().sum(dim=0)}


def _low_rank(layer: LowRankLinear, delta: Tensor, x: Tensor) -> Squares:
    squares = {
        "U": x.square().T @ (delta @ layer.V.T).square(),
        "V": (x @ layer.U).square().T @ delta.square(),
    }
    return squares if layer.bias is None else squares | {"bias": delta.square().sum(dim=0)}


def _stored_program(layer: StoredProgramLinear, delta: Tensor, x: Tensor) -> Squares:
    """y = sum_p a_p (M_p x + c_p): the gradient of M_p is the outer product of a_p delta and x."""
    attention = layer.attention(x)  # (B, P)
    weighted = (attention.unsqueeze(-1) * delta.unsqueeze(1)).square()  # (B, P, d_out)
    small = _gradients(layer, ("keys", "query.bias", "strength.bias"), delta, x)
    squares = {name: gradient.square().sum(dim=0) for name, gradient in small.items()}
    # The gradient of an affine map's bias is the gradient of its output.
    for affine in ("query", "strength"):
        squares[f"{affine}.weight"] = small[f"{affine}.bias"].square().T @ x.square()
    squares["programs"] = (weighted.flatten(1).T @ x.square()).view_as(layer.programs)
    return squares if layer.biases is None else squares | {"biases": weighted.sum(dim=0)}


def _neurocoder(layer: NeurocoderLinear, delta: Tensor, x: Tensor, *z: Tensor) -> Squares:
    """Squares of a layer with the linear controller; the recurrent controller has no fast form.

    Given the attention, delta . y is bilinear in M_U x and M_V delta: the gradients of M_U and M_V are outer products
    with x and with delta. Generated keys add a second term to both.
    """
    if layer.steps:
        return one_by_one(layer, delta, x, *z)
    x, controller_input = layer.rows(x, *z or (None,))
    gradients = _gradients_of_intermediates(layer, layer.controller(controller_input), delta, x)
    left_keys, right_keys, value_keys = gradients.keys  # (P, K, B) each
    squares = _zeros(layer)
    squares["controller.signal.weight"] = gradients.signal.square() @ controller_input.square()
    squares["controller.signal.bias"] = gradients.signal.square().sum(dim=-1)
    squares["memory.M_S"] = gradients.M_S.square().sum(dim=-1)
    squares["memory.E_S"] = value_keys.square().sum(dim=-1)
    squares |= _memory_and_keys(layer.memory, "U", gradients.in_slots.T, x, left_keys.movedim(-1, 0))
    squares |= _memory_and_keys(layer.memory, "V", gradients.out_slots.T, delta, right_keys.movedim(-1, 0))
    if layer.log_beta is not None:
        squares["log_beta"] = (gradients.beta * layer.beta).square().sum()
    if layer.bias is not None:
        squares["bias"] = delta.square().sum(dim=0)
    if layer.R is not None:
        squares["R"] = (gradients.residual.unsqueeze(1) * x).square().T @ delta.square()
    return squares


def _memory_and_keys(
    memory: ProgramMemory, letter: str, in_slots: Tensor, vectors: Tensor, keys: Tensor
) -> Squares:
    """Squares of the memory of U or V and of its keys, from the gradients of what depends on them.

    The slots' products with `vectors` depend on the memory directly. Generated keys depend on it through the
    generator, so the gradient of the memory has a second term: the keys' gradients (P, K) times the generator's
    weights (K, d).

    Args:
        letter: U or V.
        in_slots: gradients of the products, (B, P).
        vectors: x or delta, (B, d).
        keys: gradients of the keys, (B, P, K).
    """
    contents_name, generator = f"memory.M_{letter}", f"key_generator_{letter}"
    if not memory.generated_keys:
        return {
            contents_name: in_slots.square().T @ vectors.square(),
            f"memory.E_{letter}": keys.square().sum(dim=0),
        }
    contents = memory.get_parameter(f"M_{letter}")  # (P, d)
    weight = memory.get_parameter(f"{generator}.weight")  # (K, d)
    return {
        contents_name: _sum_squared(in_slots, vectors, keys, weight),
        f"memory.{generator}.weight": (keys.mT @ contents).square().sum(dim=0),
        f"memory.{generator}.bias": keys.sum(dim=1).square().sum(dim=0),
    }


def _sum_squared(a: Tensor, x: Tensor, k: Tensor, weight: Tensor) -> Tensor:
    """sum_b (a_b x_b^T + k_b W)^2, (P, d), of a (B, P), x (B, d), k (B, P, K), W (K, d), by expanding the square."""
    mixed = ((a.unsqueeze(-1) * k).flatten(1).T @ x).view(*k.shape[1:], -1)  # (P, K, d)
    gram = torch.einsum("bpk,bpl->pkl", k, k)
    squares = a.square().T @ x.square() + 2 * (mixed * weight).sum(1) + ((gram @ weight) * weight).sum(1)
    # Where the terms cancel, rounding may leave a sum below 0.
    return squares.clamp_min(0)


class _Intermediates(NamedTuple):
    """Quantities between the dense products, with a copy for every sample; or the gradients of delta . y for them."""

    signal: Tensor
    """Composition signals (3HK + 1, B)."""
    keys: Tensor
    """(3, P, K, B)."""
    M_S: Tensor
    """(P, 1, B)."""
    beta: Tensor
    """(B,)."""
    in_slots: Tensor
    """M_U x, (P, B)."""
    out_slots: Tensor
    """M_V delta, (P, B)."""
    residual: Tensor
    """delta . x R, (B,)."""


@torch.enable_grad()
def _gradients_of_intermediates(
    layer: NeurocoderLinear, signal: Tensor, delta: Tensor, x: Tensor
) -> _Intermediates:
    """Gradients of delta_b . y_b for every sample b. Samples share nothing, so one backward pass gives them all."""
    leaves = _Intermediates(
        *(value.detach().requires_grad_() for value in _intermediates(layer, signal, delta, x))
    )
    return _Intermediates(*torch.autograd.grad(_responses(layer, leaves).sum(), leaves))


def _intermediates(layer: NeurocoderLinear, signal: Tensor, delta: Tensor, x: Tensor) -> _Intermediates:
    """Values for composition signals (1, 3HK + 1, B) of the linear controller, delta (B, d_out) and x (B, d_in)."""
    memory, R = layer.memory, layer.R

    def copies(parameter: Tensor) -> Tensor:
        return parameter.unsqueeze(-1).repeat(*[1] * parameter.ndim, len(x))

    return _Intermediates(
        signal=signal.squeeze(0),
        keys=copies(memory.keys()),
        M_S=copies(memory.M_S),
        beta=copies(torch.as_tensor(layer.beta, dtype=x.dtype, device=x.device)),
        in_slots=memory.M_U @ x.T,
        out_slots=memory.M_V @ delta.T,
        residual=x.new_zeros(len(x)) if R is None else ((x @ R) * delta).sum(dim=1),
    )


def _responses(layer: NeurocoderLinear, values: _Intermediates) -> Tensor:
    """delta . y without the bias, (B,), computed as the layer with the linear controller does."""
    signal = values.signal.unsqueeze(0)  # (1, 3HK + 1, B)
    queries = signal[:, :-1].unflatten(1, (3, layer.heads, layer.key_dim))  # (1, 3, H, K, B)
    (similarities,) = scores(queries, values.keys, values.beta, layer.variant)  # (3, H, P, B)
    w_U, w_V, w_S = similarities.softmax(dim=-2).unbind()  # (H, P, B) each
    sigma = layer.singular_values((values.M_S.squeeze(1) * w_S).sum(1))  # (H, B)
    through_program = sigma * (w_U * values.in_slots).sum(1) * (w_V * values.out_slots).sum(1)  # (H, B)
    through_R = layer.residual_gate(signal, sigma[layer.smallest_component]) * values.residual  # (B,)
    return through_program.sum(0) + through_R


RULES: dict[type[nn.Module], Callable[..., Squares]] = {
    nn.Linear: _linear,
    LowRankLinear: _low_rank,
    StoredProgramLinear: _stored_program,
    NeurocoderLinear: _neurocoder,
}
"""Functions that sum squared gradients faster than `one_by_one`, for layers of exactly this type."""
