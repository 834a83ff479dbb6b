"""Gradients as CUDA graphs: one call starts the hundreds of small kernels of a step, so the GPU never waits for
Python.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurocoder.alternatives.mixture_of_experts import MixtureOfExpertsLinear

Differentiate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes inputs and targets, returns two scalar losses. The gradients of their sum are left in the parameters' `grad`."""


def can_be_graphed(network: nn.Module, device: torch.device) -> bool:
    """Whether a step's kernels are the same for all inputs of a shape.

    Those of a mixture of experts are not: an expert gets the inputs that chose it.
    """
    return device.type == "cuda" and not any(
        isinstance(module, MixtureOfExpertsLinear) for module in network.modules()
    )


@dataclass(frozen=True)
class _Recorded:
    """A graph, and the tensors that the graph reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    targets: Tensor
    losses: tuple[Tensor, Tensor]
    gradients: list[Tensor | None]
    """One for each parameter."""


class GraphedGradients:
    """A function `differentiate`, recorded once for every shape of its arguments and replayed from then on. CUDA only.

    Noise is drawn from torch's CUDA generator as without a graph. A replay starts from the generator's current state.
    """

    def __init__(self, network: nn.Module, differentiate: Differentiate):
        self.network, self.differentiate = network, differentiate
        self._recorded: dict[tuple[torch.Size, torch.Size], _Recorded] = {}
        # One pool for all, because no two graphs run at a time.
        self._pool = torch.cuda.graph_pool_handle()

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
        # The first call is not recorded, because libraries set themselves up in it. CUDA wants another stream.
        stream = torch.cuda.Stream(inputs.device)
        stream.wait_stream(torch.cuda.current_stream(inputs.device))
        with torch.cuda.stream(stream):
            self.differentiate(inputs, targets)
        torch.cuda.current_stream(inputs.device).wait_stream(stream)
        for buffer, before in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(before)
        # So that the graph makes gradients of its own.
        self.network.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            losses = self.differentiate(inputs, targets)
        torch.cuda.set_rng_state(random_state, inputs.device)
        gradients = [parameter.grad for parameter in self.network.parameters()]
        return _Recorded(graph, inputs, targets, losses, gradients)
