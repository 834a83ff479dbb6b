"""Gradients as CUDA graphs: a GPU that is told of a step's hundreds of small kernels in one call does not wait for Python."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurocoder.alternatives.mixture_of_experts import MixtureOfExpertsLinear

Differentiate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Inputs and targets -> two scalar losses without graph, and the gradients of their sum in the parameters' `grad`."""


def can_be_graphed(network: nn.Module, device: torch.device) -> bool:
    """Whether a step's kernels are the same for all inputs of a shape: the experts' are not, each gets as many as chose it."""
    return device.type == "cuda" and not any(
        isinstance(module, MixtureOfExpertsLinear) for module in network.modules()
    )


@dataclass(frozen=True)
class _Recorded:
    """A graph and the tensors that it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    targets: Tensor
    losses: tuple[Tensor, Tensor]
    gradients: list[Tensor | None]  # one for each parameter


class GraphedGradients:
    """`differentiate`, recorded once for every shape of its arguments and replayed from then on. CUDA only.

    Noise is drawn from torch's CUDA generator as without a graph; a replay begins at the generator's state of its time.
    """

    def __init__(self, network: nn.Module, differentiate: Differentiate):
        self.network, self.differentiate = network, differentiate
        self._recorded: dict[tuple[torch.Size, torch.Size], _Recorded] = {}
        self._pool = torch.cuda.graph_pool_handle()  # one for all: no two graphs run at a time

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        shapes = inputs.shape, targets.shape
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record(inputs, targets)
        recorded = self._recorded[shapes]
        recorded.inputs.copy_(inputs)
        recorded.targets.copy_(targets)
        recorded.graph.replay()
        for parameter, gradient in zip(self.network.parameters(), recorded.gradients, strict=True):
            parameter.grad = gradient
        loss, extra = recorded.losses
        return loss.clone(), extra.clone()

    def _record(self, inputs: Tensor, targets: Tensor) -> _Recorded:
        inputs, targets = inputs.clone(), targets.clone()
        random_state = torch.cuda.get_rng_state(inputs.device)
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        # Once as usual, on another stream as CUDA wants it: libraries set themselves up in their first call.
        stream = torch.cuda.Stream(inputs.device)
        stream.wait_stream(torch.cuda.current_stream(inputs.device))
        with torch.cuda.stream(stream):
            self.differentiate(inputs, targets)
        torch.cuda.current_stream(inputs.device).wait_stream(stream)
        for buffer, before in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.network.zero_grad(set_to_none=True)  # so that the graph makes its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            losses = self.differentiate(inputs, targets)
        torch.cuda.set_rng_state(random_state, inputs.device)
        gradients = [parameter.grad for parameter in self.network.parameters()]
        return _Recorded(graph, inputs, targets, losses, gradients)
