"""Diagonal Fisher information, the importances of EWC (Kirkpatrick et al. 2017).

F is the mean over samples of the squared gradient of -log p(label). The label is the class that the network
itself finds likeliest, as in GT-RIPL/Continual-Learning-Benchmark, from which the authors' released code takes
it. No auxiliary loss takes part. The result is exact, although no sample has a backward pass of its own:

1. Samples do not interact. So one backward pass over a batch gives, for every layer, its inputs x (B, d_in) and the
   gradients delta (B, d_out) with respect to its outputs, sample by sample.
2. The rest is local to a layer: the sum over samples b of the squared gradients of delta_b . layer(x_b), which
   `neurocoder.squared_gradients` computes.

Shapes: B samples.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.squared_gradients import RULES, squared_gradients


def diagonal_fisher(
    network: nn.Module, x: Tensor, *, logits: Callable[[Tensor], Tensor] | None = None, batch: int = 512
) -> dict[str, Tensor]:
    """Fisher information of every parameter of a classifier, shaped like it, in the order of `named_parameters`.

    Args:
        network: must be in evaluation mode, if that makes a difference, and must not use batch statistics. Parameters
            that the logits do not depend on, such as the heads of other tasks, get 0.
        x: samples (N, ...).
        logits: maps B samples to (B, classes) by calling `network` or its layers with their current parameters.
            None: `network` itself.
        batch: samples in one backward pass.

    Raises:
        ValueError: a layer is called twice or with rows that are not samples, or its parameters are used uncalled.
    """
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in network.named_parameters()}
    for samples in x.split(batch):
        for name, layer, delta, inputs in _layer_gradients(network, logits or network, samples):
            for parameter, squares in squared_gradients(layer, delta, *inputs).items():
                total[f"{name}.{parameter}".removeprefix(".")] += squares
    return {name: squares / len(x) for name, squares in total.items()}


def _layer_gradients(
    network: nn.Module, logits: Callable[[Tensor], Tensor], x: Tensor
) -> list[tuple[str, nn.Module, Tensor, tuple[Tensor, ...]]]:
    """Returns name, layer, delta and inputs of every layer that the logits of x depend on."""
    calls: list[tuple[str, nn.Module, tuple[Tensor, ...], Tensor]] = []

    def record(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((name, layer, tuple(tensor.detach() for tensor in inputs), output.requires_grad_()))
        # A later layer may overwrite the output in place.
        return output.clone()

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
    """Yields the outermost modules that have a rule or hold parameters directly, with their names."""
    if type(module) in RULES or next(module.parameters(recurse=False), None) is not None:
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _layers(child, f"{name}.{child_name}".removeprefix("."))
