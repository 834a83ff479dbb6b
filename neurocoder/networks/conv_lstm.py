"""The Atari actor-critic: four convolutions, an LSTM, an actor and a critic (the paper's Table 7, "LSTM", 3.2 M).

Shapes: T steps, N games, A actions. A frame is 80 x 80 grey.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neurocoder.checks import check_sizes
from neurocoder.kernels import convolutions
from neurocoder.kernels.convolutions import Activations
from neurocoder.kernels.lstm import LSTMWeights, lstm_forward
from neurocoder.output_layers import OutputLayer

FRAME = 80
FEATURES = 1024
HIDDEN = 512

State = tuple[Tensor, Tensor]
"""LSTM hidden and cell state, (N, 512) each."""


class ConvLSTM(nn.Module):
    """Actor-critic over single frames; the LSTM supplies the memory that stacked frames would.

    There is no single forward method. Training needs three parts: `features` (convolutions, once a frame),
    `recur` (LSTM over a rollout), and `actor` and `critic` (the output layers, made by the factories).

    Raises:
        ValueError: a size is below 1. The message names it.
    """

    compute_dtype: torch.dtype | None = None
    """The precision of the convolutions and of the LSTM's products. None: the precision of their weights. A
    compiled first convolution always has fp32."""

    def __init__(self, actions: int, *, actor: OutputLayer = nn.Linear, critic: OutputLayer = nn.Linear):
        super().__init__()
        check_sizes(actions=actions)
        self.convolutions = nn.ModuleList(
            [
                _convolution(1, 32, 5, padding=2),  # 80 -> 80, pooled to 40
                _convolution(32, 32, 5, padding=1),  # 40 -> 38, pooled to 19
                _convolution(32, 64, 4, padding=1),  # 19 -> 18, pooled to 9
                _convolution(64, 64, 3, padding=1),  # 9 -> 9, pooled to 4
            ]
        )
        self.lstm = nn.LSTMCell(FEATURES, HIDDEN)
        self.actor = actor(HIDDEN, actions)
        self.critic = critic(HIDDEN, 1)
        self._initialise()

    def _initialise(self) -> None:
        """Draws linear output layers and zeroes the LSTM's biases.

        The rows of the actor have norm 0.01, so that the policy starts nearly uniform. The critic's row has norm 1.
        Both norms follow rl_a3c_pytorch. The LSTM has torch's weights and zero biases. In rl_a3c_pytorch the forget
        gate's bias is 1, recurrent weights are orthogonal and input weights Xavier. Other output layers keep
        the values they were made with.
        """
        nn.init.zeros_(self.lstm.bias_ih)
        nn.init.zeros_(self.lstm.bias_hh)
        for layer, norm in ((self.actor, 0.01), (self.critic, 1.0)):
            if isinstance(layer, nn.Linear):
                with torch.no_grad():
                    layer.weight.normal_()
                    layer.weight *= norm / layer.weight.norm(dim=1, keepdim=True)
                    if layer.bias is not None:
                        layer.bias.zero_()

    def initial_state(self, games: int) -> State:
        """The state before the first frame of a game: zeros."""
        new_zeros = self.lstm.bias_ih.new_zeros
        # Two separate tensors, because a caller may write into them.
        return new_zeros(games, HIDDEN), new_zeros(games, HIDDEN)

    def features(self, frames: Tensor) -> Tensor:
        """Frames (N, 1, 80, 80), uint8, -> (N, 1024). Each frame is scaled to zero mean and unit deviation.

        Raises:
            ValueError: frames of another shape.
        """
        return self.features_of([self.activations(frames)])

    def activations(self, frames: Tensor) -> Activations:
        """Passes frames through the convolutions. `features_of` makes features of the result, now or later.

        Raises:
            ValueError: frames of another shape.
        """
        if frames.shape[1:] != (1, FRAME, FRAME):
            raise ValueError(
                f"frames have shape {tuple(frames.shape)}; they must be (N, 1, {FRAME}, {FRAME})"
            )
        dtype = self.lstm.bias_ih.dtype
        x = frames.flatten(1).to(dtype)
        x = x - x.mean(dim=1, keepdim=True)
        deviation = torch.linalg.vector_norm(x, dim=1, keepdim=True) / FRAME
        # A black screen has deviation 0. One grey level is 1.
        x = x / (deviation + 1e-2)
        # Not .contiguous(channels_last): with one channel it leaves strides that torch takes for the default layout.
        x = x.reshape(-1, FRAME, FRAME, 1).permute(0, 3, 1, 2)
        return convolutions.activations(x, self.convolutions, self.compute_dtype or dtype)

    def features_of(self, passes: Sequence[Activations]) -> Tensor:
        """The features (N, 1024) of all N frames of these forward passes, in their order, with a gradient.

        The convolutions must still have the weights of the passes.
        """
        return convolutions.features(passes, self.convolutions)

    def lstm_weights(self) -> LSTMWeights:
        """The LSTM's weights in `compute_dtype`. They are valid as long as the parameters do not change."""
        cell = self.lstm
        dtype = self.compute_dtype or cell.bias_ih.dtype
        weights = cell.weight_ih, cell.weight_hh, cell.bias_ih + cell.bias_hh
        return LSTMWeights(*(weight.to(dtype) for weight in weights))

    def step(
        self, features: Tensor, state: State, start: Tensor, weights: LSTMWeights | None = None
    ) -> tuple[Tensor, State]:
        """One LSTM step: features (N, 1024), start (N,) bool -> hidden (N, 512), state.

        `start` is true where `features` show the first frame of a game. `recur` explains `weights`.
        """
        hidden, state = self.recur(features.unsqueeze(0), state, start.unsqueeze(0), weights)
        return hidden.squeeze(0), state

    def recur(
        self, features: Tensor, state: State, start: Tensor, weights: LSTMWeights | None = None
    ) -> tuple[Tensor, State]:
        """LSTM over a rollout: features (T, N, 1024), start (T, N) -> hidden (T, N, 512), state after the last step.

        A caller with many steps passes `lstm_weights` as `weights`, so that they are converted once.
        """
        weights = weights or self.lstm_weights()
        keep = (~start).to(features.dtype).unsqueeze(-1)  # (T, N, 1)
        hidden, c = lstm_forward(features, weights, *state, keep)
        return hidden, (hidden[-1], c)


def _convolution(channels_in: int, channels_out: int, kernel: int, *, padding: int) -> nn.Conv2d:
    """Makes a convolution with Xavier-uniform weights and zero biases.

    The weights are channels-last, which on a CPU is nearly twice as fast as the default layout.
    """
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=padding)
    nn.init.xavier_uniform_(convolution.weight, nn.init.calculate_gain("relu"))
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)
    return convolution
