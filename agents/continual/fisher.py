"""Diagonal Fisher information, the importances of EWC (Kirkpatrick et al. 2017).

F = mean over samples of the squared gradient of -log p(label), the label being the one that the network itself finds
likeliest, as in GT-RIPL/Continual-Learning-Benchmark, from which the authors' released code takes it. No auxiliary loss
is part of it. Exact, yet no sample is taken singly:

1. Samples do not interact. So one backward pass over a batch gives, for every layer, its inputs x (B, d_in) and the
   gradients delta (B, d_out) with respect to its outputs, sample by sample.
2. What remains is local to a layer: the sum over samples b of the squared gradients of delta_b . layer(x_b). The
   gradient of W in x W is the outer product of x_b and delta_b, so the sum is (x^2)^T delta^2 and no sample's gradient
   is written out. `RULES` says which layers have such parameters; all else is `one_by_one`.

Shapes: B samples, P slots or programs, H heads, K key width.
"""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.alternatives.low_rank import LowRankLinear
from neurocoder.alternatives.stored_program import StoredProgramLinear
from neurocoder.layer import NeurocoderLinear
from neurocoder.program_memory import scores

WRITTEN_OUT = 16_000_000  # numbers that `one_by_one` holds at a time, 64 MB in single precision

Squares = dict[str, Tensor]
"""For each parameter of a module, by name, the sum over samples of its squared gradient, shaped like it."""


def diagonal_fisher(
    network: nn.Module, x: Tensor, *, logits: Callable[[Tensor], Tensor] | None = None, batch: int = 512
) -> dict[str, Tensor]:
    """Fisher information of every parameter of a classifier, shaped like it, in the order of `named_parameters`.

    Args:
        network: in evaluation mode, if that makes a difference; without batch statistics. Parameters of which the
            logits are independent, such as other tasks' heads, get 0.
        x: samples (N, ...).
        logits: gives (B, classes) from B samples by calling `network` or its layers, with the parameters they hold;
            None: `network` itself.
        batch: samples in one backward pass.

    Raises:
        ValueError: a layer is called twice or with rows that are not samples, or its parameters are used uncalled.
    """
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in network.named_parameters()}
    for samples in x.split(batch):
        for name, layer, delta, inputs in _layer_gradients(network, logits or network, samples):
            for own_name, squares in squared_gradients(layer, delta, *inputs).items():
                total[f"{name}.{own_name}".removeprefix(".")] += squares
    return {name: squares / len(x) for name, squares in total.items()}


@torch.no_grad()
def squared_gradients(layer: nn.Module, delta: Tensor, *inputs: Tensor) -> Squares:
    """Squared gradients of delta_b . layer(*inputs_b), summed over b; delta (B, ..., d_out), inputs (B, ..., d)."""
    by_rows = all(tensor.ndim == 2 for tensor in (delta, *inputs))  # else a sample calls the layer many times
    return (RULES.get(type(layer), one_by_one) if by_rows else one_by_one)(layer, delta, *inputs)


def one_by_one(layer: nn.Module, delta: Tensor, *inputs: Tensor) -> Squares:
    """`squared_gradients` of any layer, by gradients that are written out for each sample, some samples at a time."""
    squares = {name: torch.zeros_like(parameter) for name, parameter in layer.named_parameters()}
    rows = max(1, WRITTEN_OUT // sum(total.numel() for total in squares.values()))
    for chunk in zip(*(tensor.split(rows) for tensor in (delta, *inputs)), strict=True):
        for name, gradient in _gradients(layer, squares, *chunk).items():
            squares[name] += gradient.square().sum(dim=0)
    return squares


def _gradients(layer: nn.Module, names: Collection[str], delta: Tensor, *inputs: Tensor) -> dict[str, Tensor]:
    """The gradients themselves, of the parameters named: (B, shape of the parameter) each."""

    def response(parameters: dict[str, Tensor], delta: Tensor, *inputs: Tensor) -> Tensor:
        sample = tuple(tensor.unsqueeze(0) for tensor in inputs)
        return (torch.func.functional_call(layer, parameters, sample).squeeze(0) * delta).sum()

    parameters = {name: p.detach() for name, p in layer.named_parameters() if name in names}
    over_samples = (None, *[0] * (1 + len(inputs)))
    return torch.func.vmap(torch.func.grad(response), in_dims=over_samples)(parameters, delta, *inputs)


def _layer_gradients(
    network: nn.Module, logits: Callable[[Tensor], Tensor], x: Tensor
) -> list[tuple[str, nn.Module, Tensor, tuple[Tensor, ...]]]:
    """Name, layer, delta and inputs of every layer that the logits of x depend on."""
    calls: list[tuple[str, nn.Module, tuple[Tensor, ...], Tensor]] = []

    def record(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((name, layer, tuple(tensor.detach() for tensor in inputs), output.requires_grad_()))
        return output.clone()  # what follows may overwrite it

    layers = dict(_layers(network))
    hooks = [layer.register_forward_hook(partial(record, name)) for name, layer in layers.items()]
    try:
        y = logits(x)
    finally:
        for hook in hooks:
            hook.remove()
    loss = F.cross_entropy(y, y.argmax(dim=-1), reduction="sum")
    names = [name for name, *_ in calls]
    idle = [layer for name, layer in layers.items() if name not in names]
    unseen = [p for layer in idle for p in layer.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, [*(output for *_, output in calls), *unseen], allow_unused=True)
    if len(set(names)) < len(names) or any(gradient is not None for gradient in gradients[len(calls) :]):
        raise ValueError("every layer that the logits depend on must be called exactly once")
    if any(len(output) != len(x) for *_, output in calls):
        raise ValueError("every row that a layer sees must be one sample")
    return [
        (name, layer, delta, inputs)
        for (name, layer, inputs, _), delta in zip(calls, gradients, strict=False)
        if delta is not None
    ]


def _layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that have a rule or parameters of their own, with their names."""
    if type(module) in RULES or next(module.parameters(recurse=False), None) is not None:
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _layers(child, f"{name}.{child_name}".removeprefix("."))


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
    attention = layer._attention(x)  # (B, P)
    weighted = (attention.unsqueeze(-1) * delta.unsqueeze(1)).square()  # (B, P, d_out)
    small = _gradients(layer, ("keys", "query.bias", "strength.bias"), delta, x)
    squares = {name: gradient.square().sum(dim=0) for name, gradient in small.items()}
    for affine in ("query", "strength"):  # their biases' gradients are those of their outputs
        squares[f"{affine}.weight"] = small[f"{affine}.bias"].square().T @ x.square()
    squares["programs"] = (weighted.flatten(1).T @ x.square()).view_as(layer.programs)
    return squares if layer.biases is None else squares | {"biases": weighted.sum(dim=0)}


def _neurocoder(layer: NeurocoderLinear, delta: Tensor, x: Tensor, *own: Tensor) -> Squares:
    """`own` is the controller's input, where it is not x. The recurrent controller has no fast form.

    Given the attention, delta . y is bilinear in M_U x and M_V delta: the gradients of M_U and M_V are outer products
    with x and with delta. Keys generated from M_U and M_V add a second term, the keys' gradients (P, K) times the
    generator's weights (K, d).
    """
    if layer.steps:
        return one_by_one(layer, delta, x, *own)
    memory, (x, z) = layer.memory, layer._rows(x, *own or (None,))
    of = _gradients_of_each(layer, layer.controller(z), delta, x)
    squares = {name: torch.zeros_like(parameter) for name, parameter in layer.named_parameters()}
    squares["controller.signal.weight"] = of.signal.square() @ z.square()
    squares["controller.signal.bias"] = of.signal.square().sum(dim=-1)
    squares["memory.M_S"] = of.M_S.square().sum(dim=-1)
    squares["memory.E_S"] = of.keys[2].square().sum(dim=-1)
    if layer.log_beta is not None:
        squares["log_beta"] = (of.beta * layer.beta).square().sum()
    if layer.bias is not None:
        squares["bias"] = delta.square().sum(dim=0)
    if layer.R is not None:
        squares["R"] = (of.residual.unsqueeze(1) * x).square().T @ delta.square()
    for name, of_products, vectors, of_keys in (
        ("U", of.in_slots.T, x, of.keys[0].movedim(-1, 0)),  # (B, P), (B, d), (B, P, K)
        ("V", of.out_slots.T, delta, of.keys[1].movedim(-1, 0)),
    ):
        if memory.generated_keys:
            contents = memory.get_parameter(f"M_{name}")  # (P, d)
            weight = memory.get_parameter(f"key_generator_{name}.weight")  # (K, d)
            squares[f"memory.M_{name}"] = _sum_squared(of_products, vectors, of_keys, weight)
            squares[f"memory.key_generator_{name}.weight"] = (of_keys.mT @ contents).square().sum(dim=0)
            squares[f"memory.key_generator_{name}.bias"] = of_keys.sum(dim=1).square().sum(dim=0)
        else:
            squares[f"memory.M_{name}"] = of_products.square().T @ vectors.square()
            squares[f"memory.E_{name}"] = of_keys.square().sum(dim=0)
    return squares


class _OfEach(NamedTuple):
    """What delta . y depends on between the dense products, each sample with its own copy."""

    signal: Tensor  # (3HK + 1, B)
    keys: Tensor  # (3, P, K, B)
    M_S: Tensor  # (P, 1, B)
    beta: Tensor  # (B,)
    in_slots: Tensor  # (P, B), M_U x
    out_slots: Tensor  # (P, B), M_V delta
    residual: Tensor  # (B,), delta . x R


@torch.enable_grad()
def _gradients_of_each(layer: NeurocoderLinear, signal: Tensor, delta: Tensor, x: Tensor) -> _OfEach:
    """Gradients of delta . y with the linear controller: as no sample shares anything, one backward pass has those of all."""
    memory, R = layer.memory, layer.R

    def copies(parameter: Tensor) -> Tensor:
        return parameter.unsqueeze(-1).repeat(*[1] * parameter.ndim, len(x))

    each = _OfEach(
        signal=signal.squeeze(0),
        keys=copies(memory.keys()),
        M_S=copies(memory.M_S),
        beta=copies(torch.as_tensor(layer.beta, dtype=x.dtype, device=x.device)),
        in_slots=memory.M_U @ x.T,
        out_slots=memory.M_V @ delta.T,
        residual=x.new_zeros(len(x)) if R is None else ((x @ R) * delta).sum(dim=1),
    )
    each = _OfEach(*(leaf.detach().requires_grad_() for leaf in each))
    signal = each.signal.unsqueeze(0)
    queries = signal[:, :-1].unflatten(1, (3, layer.heads, layer.key_dim))  # (1, 3, H, K, B)
    (similarities,) = scores(queries, each.keys, each.beta, layer.variant)  # (3, H, P, B)
    w_U, w_V, w_S = similarities.softmax(dim=-2).unbind()  # (H, P, B)
    sigma = layer.sums @ F.softplus((each.M_S.squeeze(1) * w_S).sum(1))  # (H, B)
    through_program = sigma * (w_U * each.in_slots).sum(1) * (w_V * each.out_slots).sum(1)
    through_R = layer._residual_gate(signal, sigma[layer.smallest]) * each.residual
    return _OfEach(*torch.autograd.grad(through_program.sum() + through_R.sum(), each))


def _sum_squared(a: Tensor, x: Tensor, k: Tensor, weight: Tensor) -> Tensor:
    """sum_b (a_b x_b^T + k_b W)^2, (P, d), of a (B, P), x (B, d), k (B, P, K), W (K, d), by expanding the square."""
    mixed = ((a.unsqueeze(-1) * k).flatten(1).T @ x).view(*k.shape[1:], -1)  # (P, K, d)
    gram = torch.einsum("bpk,bpl->pkl", k, k)
    squares = a.square().T @ x.square() + 2 * (mixed * weight).sum(1) + ((gram @ weight) * weight).sum(1)
    return squares.clamp_min(0)  # where the terms cancel, rounding may leave less


RULES: dict[type[nn.Module], Callable[..., Squares]] = {
    nn.Linear: _linear,
    LowRankLinear: _low_rank,
    StoredProgramLinear: _stored_program,
    NeurocoderLinear: _neurocoder,
}
"""What sums squared gradients faster than `one_by_one`, for layers of exactly this type."""
