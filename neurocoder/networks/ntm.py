"""A Neural Turing Machine: the Main Network of the multi-algorithm task (paper, appendix; Graves et al. 2014).

An LSTM controller drives a read head and a write head over a memory of N cells, through one output layer for
each head. The output layers are affine as in the NSM repository, without the tanh that the paper's text names.

In each step both heads find their cells in the memory that the previous step left. The read head reads before the write
head writes. The vector read goes to this step's output and to the next step's controller.

Shapes: B sequences, T steps, N cells, M cell width, h controller width; an axis of 2 is (read head, write head).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocoder.checks import check_sizes
from neurocoder.output_layers import OutputLayer
from neurocoder.program_memory import cached_keys

SMALLEST_NORM = 1e-6
"""Smallest norm of a key or a cell, so that the cosine of a zero vector is 0."""
SMALLEST_WEIGHT = 1e-16
"""Added to weightings before sharpening takes the logarithm. The released code adds the same constant to the sum."""


class NTMState(NamedTuple):
    """The state that one step passes to the next."""

    h: Tensor
    """Hidden state of the controller, (B, h)."""
    c: Tensor
    """Cell state of the controller, (B, h)."""
    read: Tensor
    """The vector that the read head read, (B, M)."""
    weights: Tensor
    """Weightings of the cells by the heads, (B, 2, N)."""
    memory: Tensor
    """(B, N, M)."""


class NTM(nn.Module):
    """Neural Turing Machine. The values of h that fit the paper's counts: 250 plain, 200 NSM and Neurocoder, 205 FiLM.

    The initial memory and the initial read vector are drawn once and stay fixed. The controller's initial state
    is learnt.

    Args:
        in_features, out_features: widths of the input and output of a step.
        hidden: h.
        cells: N.
        cell_width: M.
        output_layer: factory for the layers that make the heads' parameters from the controller state.

    Raises:
        ValueError: a size is below 1. The message names it.
    """

    memory_0: Tensor
    read_0: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: int,
        cells: int = 128,
        cell_width: int = 20,
        output_layer: OutputLayer = nn.Linear,
    ):
        super().__init__()
        check_sizes(
            in_features=in_features,
            out_features=out_features,
            hidden=hidden,
            cells=cells,
            cell_width=cell_width,
        )
        self.in_features, self.cell_width = in_features, cell_width
        self.controller = nn.LSTMCell(in_features + cell_width, hidden)
        self.h_0 = nn.Parameter(torch.empty(hidden).normal_(std=0.05))
        self.c_0 = nn.Parameter(torch.empty(hidden).normal_(std=0.05))
        # The read head's parameters are those of `address`. The write head has erase (M) and add (M) after them.
        self.read_head = output_layer(hidden, cell_width + 6)
        self.write_head = output_layer(hidden, 3 * cell_width + 6)
        self.output = nn.Linear(hidden + cell_width, out_features)
        bound = 1 / math.sqrt(cells + cell_width)
        self.register_buffer("memory_0", torch.empty(cells, cell_width).uniform_(-bound, bound))
        self.register_buffer("read_0", torch.empty(cell_width).normal_(std=0.01))
        self._initialise()

    def _initialise(self) -> None:
        """Draws the controller, the output layer and plain heads as released. Other heads keep their values."""
        bound = 5 / math.sqrt(self.controller.input_size + self.controller.hidden_size)
        for parameter in self.controller.parameters():
            if parameter.ndim == 2:
                nn.init.uniform_(parameter, -bound, bound)
            else:
                nn.init.zeros_(parameter)
        for layer, gain in ((self.read_head, 1.4), (self.write_head, 1.4), (self.output, 1.0)):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, gain)
                if layer.bias is not None:
                    nn.init.normal_(layer.bias, std=0.01)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, T, in_features) -> logits (B, T, out_features). Every call starts from the initial state.

        Raises:
            ValueError: inputs of another shape.
        """
        if inputs.ndim != 3 or inputs.shape[1] < 1 or inputs.shape[2] != self.in_features:
            raise ValueError(
                f"inputs have shape {tuple(inputs.shape)}; "
                f"they must be (sequences, steps, in_features = {self.in_features}) with at least one step"
            )
        state = self.initial_state(len(inputs))
        features: list[Tensor] = []
        with cached_keys(self):
            for x in inputs.unbind(dim=1):
                state = self.step(x, state)
                features += (state.h, state.read)
        return self.output(torch.cat(features, dim=-1).unflatten(-1, (inputs.shape[1], -1)))

    def initial_state(self, sequences: int) -> NTMState:
        """The state before the first step. Its weightings are 0, as released: the first step goes by content alone."""
        return NTMState(
            h=self.h_0.expand(sequences, -1),
            c=self.c_0.expand(sequences, -1),
            read=self.read_0.expand(sequences, -1),
            weights=self.memory_0.new_zeros(sequences, 2, len(self.memory_0)),
            memory=self.memory_0.expand(sequences, -1, -1),
        )

    def step(self, x: Tensor, state: NTMState) -> NTMState:
        """One step with input x (B, in_features)."""
        h, c = self.controller(torch.cat((x, state.read), dim=-1), (state.h, state.c))
        to_read, to_write = self.read_head(h), self.write_head(h)  # (B, M + 6), (B, 3M + 6)
        to_find, erase, add = to_write.split((self.cell_width + 6, self.cell_width, self.cell_width), dim=-1)
        weights = address(torch.stack((to_read, to_find), dim=1), state.memory, state.weights)  # (B, 2, N)
        read = (weights[:, :1] @ state.memory).squeeze(1)  # (B, M)
        # memory (1 - w e^T) + w a^T = memory + w (a - e memory), in two passes over the memory.
        change = torch.addcmul(add.unsqueeze(1), erase.sigmoid().unsqueeze(1), state.memory, value=-1)
        memory = torch.addcmul(state.memory, weights[:, 1].unsqueeze(-1), change)  # (B, N, M)
        return NTMState(h, c, read, weights, memory)


def address(parameters: Tensor, memory: Tensor, previous: Tensor) -> Tensor:
    """Computes weightings of the cells: a mix of content-based and previous weightings, then shifted and sharpened.

    Args:
        parameters: key (M), strength, gate, shift (3) and sharpening before their activations, (B, 2, M + 6).
        memory: (B, N, M).
        previous: the weightings of the previous step, (B, 2, N).

    Returns:
        Weightings (B, 2, N), not negative, with sum 1.
    """
    key, strength, gate, shift, sharpening = parameters.split((memory.shape[-1], 1, 1, 3, 1), dim=-1)
    key = key * (F.softplus(strength) / _norm(key).unsqueeze(-1))
    by_content = (key @ memory.mT / _norm(memory).unsqueeze(1)).softmax(dim=-1)  # (B, 2, N)
    moved = shift_circularly(previous + gate.sigmoid() * (by_content - previous), shift.softmax(dim=-1))
    # w^gamma / sum w^gamma as a softmax, so that a small w does not underflow.
    return ((1 + F.softplus(sharpening)) * (moved + SMALLEST_WEIGHT).log()).softmax(dim=-1)


def shift_circularly(weights: Tensor, shift: Tensor) -> Tensor:
    """Moves weightings (..., N) by shares `shift` (..., 3): to the next cell, not at all, to the previous cell."""
    moved = torch.stack((weights.roll(1, dims=-1), weights, weights.roll(-1, dims=-1)), dim=-2)  # (..., 3, N)
    return (shift.unsqueeze(-2) @ moved).squeeze(-2)


def _norm(vectors: Tensor) -> Tensor:
    """Norms (...) of vectors (..., M), at least SMALLEST_NORM."""
    return torch.linalg.vector_norm(vectors, dim=-1).clamp_min(SMALLEST_NORM)
